"""Is all well, and if not, what is wrong? Decided from what was counted in the last seconds."""

from __future__ import annotations

import enum

import msgspec

from gateway.page.samples import Change, History, Sample

# Long enough to hold several requests, short enough that an outage that has ended is over here too.
_NOW_S = 3.0
_WHILE_S = 10.0
_SILENT_S = 4.0
_SOME = 0.05
_NEARLY_FULL = 0.9
_PASSED = frozenset({"miss", "bypass"})


class Level(enum.IntEnum):
    """How bad it is for callers."""

    OK = 0
    WARN = 1
    BAD = 2


class Finding(msgspec.Struct, frozen=True):
    """The state of one part.

    Attributes:
        level: how bad it is.
        state: one or two words.
        text: what it means for callers, in a sentence.
    """

    level: Level
    state: str
    text: str


class Facts(msgspec.Struct, frozen=True):
    """What is known besides the counts.

    Attributes:
        is_ready: requests are accepted.
        has_redis: a Redis is configured.
        max_connections: bound of callers' connections, in each worker.
        workers: processes that there should be.
        workers_ready: those that accept requests.
    """

    is_ready: bool
    has_redis: bool
    max_connections: int
    workers: int
    workers_ready: int


def upstream(history: History) -> Finding:
    """Return how the upstream is."""
    now = history.since(_NOW_S)
    if not _asked(now):
        now = history.since(_WHILE_S)
    waiting = int(min((_in_use(sample) for sample in history.recent(_SILENT_S)), default=0))
    if waiting > 0 and not _answered(history.since(_SILENT_S)) and _lasts(history, _SILENT_S):
        text = f"AOS has not answered for {_SILENT_S:.0f} s or more while {waiting} calls wait."
        return Finding(Level.BAD if waiting > 1 else Level.WARN, "silent", text)
    asked = _asked(now)
    if not asked:
        return _last_word(history)
    failed = now.total("upstream_failures_total")
    errors = now.total("requests_total", outcome=lambda value: value in _PASSED, status="5xx")
    if failed >= asked:
        why = _most(now.by_label("upstream_failures_total", "error"))
        text = f"AOS can't be reached ({why}). What is stored is still answered; all else gets an error."
        return Finding(Level.BAD, "down", text)
    if failed > 0:
        why = _most(now.by_label("upstream_failures_total", "error"))
        text = f"{_percent(failed / asked)} of the calls to AOS fail ({why})."
        return Finding(Level.BAD if failed / asked > 0.5 else Level.WARN, "failing", text)
    if errors / asked > _SOME:
        text = f"AOS answers {_percent(min(1.0, errors / asked))} of the calls with errors of its own (5xx)."
        return Finding(Level.BAD if errors / asked > 0.5 else Level.WARN, "errors", text)
    return Finding(Level.OK, "up", "AOS answers.")


def redis(history: History, facts: Facts) -> Finding:
    """Return how Redis is; requests go on without it."""
    if not facts.has_redis:
        return Finding(Level.OK, "off", "Not configured: records are kept in memory alone.")
    sample = history.newest
    debts = int(sample.gauge("redis_debts"))
    is_heard = bool(sample.gauge("redis_subscription_up"))
    # Before its first operation it counts as down: nothing is known then but what the subscription tells.
    has_failed = not sample.gauge("redis_up") and history.since(_WHILE_S).total("redis_failures_total") > 0
    if sample.gauge("redis_breaker_open") or has_failed or not (is_heard or sample.gauge("redis_up")):
        text = "Redis does not answer: more is fetched from AOS, nothing wrong is served."
        return Finding(Level.WARN, "down", text)
    if not is_heard:
        text = "Word of other replicas' writes does not arrive: copies in memory live shorter."
        return Finding(Level.WARN, "half", text)
    if debts:
        text = f"Redis answers, but {debts} stacks must still be forgotten there."
        return Finding(Level.WARN, "owing", text)
    return Finding(Level.OK, "up", "Redis answers.")


def gateway(history: History, facts: Facts) -> Finding:
    """Return how the gateway itself is."""
    sample = history.newest
    if not facts.is_ready:
        return Finding(Level.WARN, "draining", "It takes no new work: it is starting or being stopped.")
    if (missing := facts.workers - facts.workers_ready) > 0:
        are = "is" if missing == 1 else "are"
        return Finding(Level.WARN, "partly", f"{missing} of {facts.workers} workers {are} not ready.")
    if sample.gauge("connections") >= facts.max_connections * facts.workers * _NEARLY_FULL:
        text = "Nearly all connections from callers are taken (server.max_connections)."
        return Finding(Level.WARN, "full", text)
    waiting = int(min((one.gauge("upstream_waiting") for one in history.recent(_NOW_S)), default=0))
    if waiting:
        text = f"{waiting} requests wait for a connection to AOS (upstream.max_connections)."
        return Finding(Level.WARN, "queueing", text)
    return Finding(Level.OK, "accepting", "It accepts requests.")


def headline(parts: dict[str, Finding]) -> tuple[Level, str]:
    """Return the one line on top: the worst thing there is, or that all is well."""
    worst = max(parts.values(), key=lambda finding: finding.level)
    if worst.level is Level.OK:
        return Level.OK, "All is well."
    return worst.level, worst.text


def _last_word(history: History) -> Finding:
    """Return what the last calls met when nothing was asked of the upstream lately."""
    ended_s = 0.0
    for step in reversed(list(history.steps())):
        if _asked(step):
            if step.total("upstream_failures_total") < _asked(step):
                break
            text = f"The last calls to AOS failed, about {ended_s:.0f} s ago; nothing was asked since."
            return Finding(Level.WARN, "unsure", text)
        ended_s += step.over_s
    return Finding(Level.OK, "idle", "Nothing was asked of AOS in the last seconds.")


def _asked(change: Change) -> float:
    # Those refused before they were sent are failures without a call.
    return max(change.total("upstream_calls_total"), change.total("upstream_failures_total"))


def _answered(change: Change) -> float:
    return change.total("requests_total", outcome=lambda value: value != "hit")


def _in_use(sample: Sample) -> float:
    return sample.gauge("upstream_connections") - sample.gauge("upstream_parked")


def _lasts(history: History, wanted_s: float) -> bool:
    """Tell whether the recent samples reach back far enough."""
    recent = history.recent(wanted_s * 1.5)
    return recent[-1].at_s - recent[0].at_s >= wanted_s * 0.75


def _most(counts: dict[str, float]) -> str:
    return max(counts, key=lambda name: counts[name]).replace("_", " ") if counts else "unknown"


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")
