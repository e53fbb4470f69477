"""Is all well, and if not, what is wrong and what is to be done? Decided from what was counted lately."""

from __future__ import annotations

import enum

import msgspec

from gateway.page.samples import Change, History, Sample

# Long enough to hold several requests, short enough that an outage that has ended is over here too.
# The longer ones are for when nothing was asked since.
_NOW_S = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_WHILE_S = 10.0
# Who is told to wait asks seldom: the longer ones are for when nobody asked since.
_ANSWERED_S = (10.0, 20.0, 40.0, 60.0)
_SILENT_S = 4.0
# Whoever looks a little later should still learn of it.
_TOLD_S = 60.0
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
        todo: what a person does about it; empty when all is well.
    """

    level: Level
    state: str
    text: str
    todo: str = ""


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
    # As short as tells anything: what was before the last calls may be over.
    now = next(
        (change for ago_s in _NOW_S if _asked(change := history.since(ago_s))), history.since(_NOW_S[-1])
    )
    waiting = int(min((_in_use(sample) for sample in history.recent(_SILENT_S)), default=0))
    if waiting > 0 and not _answered(history.since(_SILENT_S)) and _lasts(history, _SILENT_S):
        calls = "1 call waits" if waiting == 1 else f"{waiting} calls wait"
        return Finding(
            Level.BAD if waiting > 1 else Level.WARN,
            "silent",
            f"AOS has not answered for {_SILENT_S:.0f} s or more while {calls}.",
            "Look at AOS and the way to it. Each call ends with an error after upstream.read_timeout_s.",
        )
    asked = _asked(now)
    if not asked:
        return _last_word(history)
    failed = now.total("upstream_failures_total")
    errors = now.total("requests_total", outcome=lambda value: value in _PASSED, status="5xx")
    if failed >= asked:
        why = _most(now.by_label("upstream_failures_total", "error"))
        return Finding(
            Level.BAD,
            "down",
            f"AOS can't be reached ({why}). What is stored is still answered; all else gets an error.",
            "Check upstream.url, AOS and the network from here to it. It goes on by itself when AOS is back.",
        )
    if failed > 0:
        why = _most(now.by_label("upstream_failures_total", "error"))
        return Finding(
            Level.BAD if failed / asked > 0.5 else Level.WARN,
            "failing",
            f"{_percent(failed / asked)} of the calls to AOS fail ({why}); their callers get an error.",
            "Check AOS and the network from here to it.",
        )
    if errors / asked > _SOME:
        return Finding(
            Level.BAD if errors / asked > 0.5 else Level.WARN,
            "errors",
            f"AOS answers {_percent(min(1.0, errors / asked))} of the calls with errors of its own (5xx).",
            "The cause is in AOS: its errors are passed on as they are.",
        )
    return Finding(Level.OK, "up", "AOS answers.")


def quota(history: History) -> Finding:
    """Return whether AOS lets callers have what they ask for, or tells them to wait (429)."""
    changes = map(history.since, _ANSWERED_S)
    now = next(
        (change for change in changes if change.total("requests_total")), history.since(_ANSWERED_S[-1])
    )
    throttled = now.total("throttled_total")
    answers = max(throttled, now.total("requests_total"))
    hits = now.total("requests_total", outcome="hit")
    # Hits cost AOS nothing: however many there are, they do not make up for the rest.
    if throttled <= _SOME * (answers - hits):
        return Finding(Level.OK, "enough", "AOS asks nobody to wait, or hardly ever.")
    here = now.total("throttled_total", by="gateway")
    return Finding(
        Level.BAD if throttled / answers > 0.5 else Level.WARN,
        "throttling",
        f"AOS asks callers to wait: {_percent(throttled / answers)} of the answers are status 429"
        f"{f', {_percent(here / answers)} were given here in its place' if here else ''}.",
        "See who is throttled most, and have them poll less often, or ask for a higher quota. "
        "What is stored is still answered.",
    )


def redis(history: History, facts: Facts) -> Finding:
    """Return how Redis is; requests go on without it."""
    if not facts.has_redis:
        return Finding(Level.OK, "off", "Not configured: records are kept in memory alone.")
    sample = history.newest
    debts = int(sample.gauge("redis_pending_invalidations"))
    is_heard = bool(sample.gauge("redis_subscription_up"))
    # Before its first operation it counts as down: nothing is known then but what the subscription tells.
    has_failed = not sample.gauge("redis_up") and history.since(_WHILE_S).total("redis_failures_total") > 0
    if sample.gauge("redis_breaker_open") or has_failed or not (is_heard or sample.gauge("redis_up")):
        return Finding(
            Level.WARN,
            "down",
            "Redis does not answer: more is fetched from AOS, nothing wrong is served.",
            "Check Redis, redis.url and the network from here to it. "
            "It is used again by itself when it is back.",
        )
    if not is_heard:
        return Finding(
            Level.WARN,
            "half",
            "Redis answers, but word of writes elsewhere does not arrive: copies in memory live shorter.",
            "If it lasts, check that Redis lets this user SUBSCRIBE and that nothing cuts idle connections.",
        )
    if debts:
        stacks = "1 stack" if debts == 1 else f"{debts} stacks"
        return Finding(
            Level.WARN,
            "owing",
            f"Redis answers, but {stacks} must still be forgotten there; until then AOS is asked for them.",
            "Nothing, unless it lasts: it is tried again and again.",
        )
    return Finding(Level.OK, "up", "Redis answers.")


def gateway(history: History, facts: Facts) -> Finding:
    """Return how the gateway itself is."""
    sample = history.newest
    ended = int(history.since(_TOLD_S).total("worker_restarts_total"))
    if not facts.is_ready:
        return _not_ready(history, ended)
    if (missing := facts.workers - facts.workers_ready) > 0:
        are = "is" if missing == 1 else "are"
        return Finding(
            Level.WARN,
            "partly",
            f"{missing} of {facts.workers} workers {are} not ready; the others answer.",
            "A worker that ends is started again by itself. If this lasts, the log says why.",
        )
    if sample.gauge("connections") >= facts.max_connections * facts.workers * _NEARLY_FULL:
        return Finding(
            Level.WARN,
            "full",
            "Nearly all connections from callers are taken.",
            "Raise server.max_connections, or run more replicas.",
        )
    waiting = int(min((one.gauge("upstream_waiting") for one in history.recent(_NOW_S[0])), default=0))
    if waiting:
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        return Finding(
            Level.WARN,
            "queueing",
            f"{requests} for a connection to AOS: all that are allowed are in use.",
            "See whether AOS is slow; else raise upstream.max_connections.",
        )
    if ended:
        workers = "1 worker ended and was" if ended == 1 else f"{ended} times a worker ended; each was"
        return Finding(
            Level.WARN,
            "replaced",
            f"Within the last minute {workers} replaced. What it was answering broke off; all is well again.",
            "The log says how it ended. If it happens again, look at the memory limits first.",
        )
    return Finding(Level.OK, "accepting", "It accepts requests.")


def _not_ready(history: History, ended: int) -> Finding:
    # Workers that serve and are not ready are draining.
    if ended and not history.newest.gauge("workers"):
        return Finding(
            Level.BAD,
            "down",
            "No worker accepts requests: they ended.",
            "They are started again by themselves. If this lasts, the log says why they end.",
        )
    if any(sample.gauge("ready") for sample in history.kept()):
        return Finding(
            Level.WARN,
            "draining",
            "The gateway is being stopped: it finishes what is under way and takes nothing new.",
            "Nothing, if that is wanted.",
        )
    return Finding(
        Level.WARN,
        "starting",
        "The gateway is starting: it takes no requests yet.",
        "If this lasts, the log says what it waits for.",
    )


def headline(parts: dict[str, Finding]) -> Finding:
    """Return what stands on top: the worst thing there is, or that all is well."""
    worst = max(parts.values(), key=lambda finding: finding.level)
    return worst if worst.level else Finding(Level.OK, "well", "All is well.")


def _last_word(history: History) -> Finding:
    """Return what the last calls met when nothing was asked of the upstream lately."""
    ended_s = 0.0
    for step in reversed(list(history.steps())):
        if _asked(step):
            if step.total("upstream_failures_total") < _asked(step):
                break
            return Finding(
                Level.WARN,
                "unsure",
                f"The last calls to AOS failed, about {ended_s:.0f} s ago; nothing was asked since.",
                "The next call will tell. Until then, check upstream.url, AOS and the network.",
            )
        ended_s += step.over_s
    return Finding(Level.OK, "idle", "Nothing was asked of AOS in the last seconds.")


def _asked(change: Change) -> float:
    # Those refused before they were sent are failures without a call.
    return max(change.total("upstream_requests_total"), change.total("upstream_failures_total"))


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
