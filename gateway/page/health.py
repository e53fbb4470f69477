"""The state of each part and what to do about it, derived from recent metrics."""

import enum

import msgspec

from gateway.config.model import Config
from gateway.page.samples import Change, History

# The shortest window with a request in it decides, so that an outage that has ended is not shown any more.
_UPSTREAM_WINDOWS_S = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_REDIS_WINDOW_S = 10.0
# Longer: throttled callers send few requests.
_QUOTA_WINDOWS_S = (10.0, 20.0, 40.0, 60.0)
_QUEUE_WINDOW_S = 3.0
_SILENT_S = 4.0
_RESTARTS_SHOWN_S = 60.0
_SOME = 0.05
_NEARLY_FULL = 0.9
_IAM_ANSWERS = {"verified", "refused"}


class Level(enum.IntEnum):
    """Severity for callers."""

    OK = 0
    WARN = 1
    BAD = 2


class Finding(msgspec.Struct, frozen=True):
    """The state of one part.

    Attributes:
        state: one or two words.
        text: what it means for callers, in a sentence.
        todo: what to do about it; empty if all is well.
        is_bad: it is more than a warning.
    """

    state: str
    text: str
    todo: str = ""
    is_bad: bool = False

    @property
    def level(self) -> Level:
        if not self.todo:
            return Level.OK
        return Level.BAD if self.is_bad else Level.WARN


class Facts(msgspec.Struct, frozen=True):
    """What is known besides the metrics.

    Attributes:
        is_ready: requests are accepted.
        workers: processes that should run.
        workers_ready: processes that accept requests.
    """

    config: Config
    is_ready: bool
    workers: int
    workers_ready: int


def upstream(history: History) -> Finding:
    """Return the state of the upstream."""
    windows = [history.since(ago_s) for ago_s in _UPSTREAM_WINDOWS_S]
    now = next(filter(_calls, windows), windows[-1])
    in_use = (
        sample.gauge("upstream_connections") - sample.gauge("upstream_parked")
        for sample in history.recent(_SILENT_S)
    )
    waiting = int(min(in_use, default=0))
    answered = history.since(_SILENT_S).by_label("requests", "outcome").keys() - {"hit"}
    if waiting > 0 and not answered and _reaches_back(history, _SILENT_S):
        who = "1 call waits" if waiting == 1 else f"{waiting} calls wait"
        return Finding(
            "silent",
            f"AOS has not answered for {_SILENT_S:.0f} s or more while {who}.",
            "Check AOS and the network from here to it. Each call fails after upstream.read_timeout_s.",
            is_bad=waiting > 1,
        )
    calls = _calls(now)
    if not calls:
        return _when_idle(history)
    failed = now.total("upstream_failures")
    why = _most(now.by_label("upstream_failures", "error"))
    if failed >= calls:
        return Finding(
            "down",
            f"AOS can't be reached ({why}). Stored records are still served; all else gets an error.",
            "Check upstream.url, AOS and the network from here to it. It recovers by itself.",
            is_bad=True,
        )
    if failed > 0:
        return Finding(
            "failing",
            f"{percent(failed / calls)} of the calls to AOS fail ({why}); their callers get an error.",
            "Check AOS and the network from here to it.",
            is_bad=failed / calls > 0.5,
        )
    fives = now.by_label("requests", "outcome", status="5xx")
    errors = fives["miss"] + fives["bypass"]
    if errors / calls > _SOME:
        return Finding(
            "errors",
            f"AOS answers {percent(min(1.0, errors / calls))} of the calls with status 5xx.",
            "The cause is in AOS: the gateway passes its errors on unchanged.",
            is_bad=errors / calls > 0.5,
        )
    return Finding("up", "AOS answers.")


def quota(history: History) -> Finding:
    """Return whether AOS throttles callers (429)."""
    windows = [history.since(ago_s) for ago_s in _QUOTA_WINDOWS_S]
    now = next((window for window in windows if window.total("requests")), windows[-1])
    throttled = now.total("throttled")
    responses = max(throttled, now.total("requests"))
    hits = now.total("requests", outcome="hit")
    # Hits don't count against the quota, so many hits must not hide the throttling of the rest.
    if throttled <= _SOME * (responses - hits):
        return Finding("enough", "AOS throttles no caller, or hardly any.")
    here = now.total("throttled", by="gateway")
    return Finding(
        "throttling",
        f"AOS throttles callers: {percent(throttled / responses)} of the responses have status 429"
        f"{f', {percent(here / responses)} came from the gateway itself' if here else ''}.",
        "Have the most throttled callers poll less often, or ask for a higher quota. "
        "Stored records are still served.",
        is_bad=throttled / responses > 0.5,
    )


def redis(history: History, facts: Facts) -> Finding:
    """Return the state of Redis; requests are served without it."""
    if not facts.config.redis.url:
        return Finding("off", "Not configured: records are kept in memory only.")
    sample = history.newest
    pending = int(sample.gauge("redis_pending_invalidations"))
    is_subscribed = bool(sample.gauge("redis_subscription_up"))
    # `redis_up` is 0 until the first operation; until then only the subscription shows the state.
    has_failed = not sample.gauge("redis_up") and history.since(_REDIS_WINDOW_S).total("redis_failures") > 0
    if sample.gauge("redis_breaker_open") or has_failed or not (is_subscribed or sample.gauge("redis_up")):
        nodes = sample.by_label("redis_node_up")
        if 0 < (down := sum(not is_up for is_up in nodes.values())) < len(nodes):
            do = "does" if down == 1 else "do"
            return Finding(
                "partly",
                f"{down} of {len(nodes)} Redis primaries {do} not answer: more is fetched from AOS for the "
                "stacks there; no outdated record is served.",
                "Check those servers and the network from here to them. "
                "The gateway uses them again, or what replaces them, by itself.",
            )
        return Finding(
            "down",
            "Redis does not answer: more is fetched from AOS; no outdated record is served.",
            "Check Redis, redis.url and the network from here to it. "
            "The gateway uses it again by itself when it is back.",
        )
    if not is_subscribed:
        return Finding(
            "half",
            "Redis answers, but not the invalidations of other replicas: copies in memory live shorter.",
            "If it lasts, check that Redis lets this user SUBSCRIBE and that nothing cuts idle connections.",
        )
    if pending:
        stacks = "1 stack" if pending == 1 else f"{pending} stacks"
        return Finding(
            "pending",
            f"Redis answers, but {stacks} must still be invalidated there; until then AOS is asked for them.",
            "Nothing, unless it lasts: the gateway retries by itself.",
        )
    return Finding("up", "Redis answers.")


def iam(history: History) -> Finding:
    """Return the state of the questions to IAM by the last of them; requests are served without it."""
    asked = [step.by_label("iam_questions", "outcome") for step in reversed(list(history.steps()))]
    for outcomes in asked:
        # What another gateway knew is no question.
        outcomes.pop("shared", None)
    last: dict[str, float] = next(filter(None, asked), {})
    if last.get("throttled"):
        return Finding(
            "throttling",
            "IAM throttles the gateway, which asks nothing for a minute: each new token is a caller of its "
            "own, and no request fails.",
            "If it lasts, lower iam.max_per_s: IAM counts by address, other replicas and tools there too.",
        )
    if last and not last.keys() & _IAM_ANSWERS:
        return Finding(
            "failing",
            f"The last questions to IAM failed ({_most(last)}): each new token is a caller of its own, "
            "and no request fails.",
            "Check iam.url, iam.ca_file, IAM and the network from here to it. It recovers by itself.",
        )
    if last.get("refused") and not history.newest.gauge("verified_tokens"):
        return Finding(
            "refusing",
            "IAM knows none of the tokens that AOS has accepted: each is a caller of its own, and no request "
            "fails.",
            "Check that iam.url is the IAM of this AOS.",
        )
    if last:
        return Finding("up", "IAM answers.")
    return Finding("idle", "IAM was not asked in the last minutes.")


def gateway(history: History, facts: Facts) -> Finding:
    """Return the state of the gateway itself."""
    sample = history.newest
    ended = int(history.since(_RESTARTS_SHOWN_S).total("worker_restarts"))
    if not facts.is_ready:
        return _not_ready(history, ended)
    if (missing := facts.workers - facts.workers_ready) > 0:
        are = "is" if missing == 1 else "are"
        return Finding(
            "partly",
            f"{missing} of {facts.workers} workers {are} not ready; the others answer.",
            "A worker that ends is replaced by itself. If this lasts, see the log.",
        )
    if sample.gauge("credentials_unavailable"):
        return Finding(
            "no credentials",
            "The gateway can't get credentials of its own: requests that bring none get an error.",
            "The log says why. Correct it and send SIGHUP; if IAM is away, it tries again by itself.",
            is_bad=True,
        )
    if sample.gauge("connections") >= facts.config.server.max_connections * facts.workers * _NEARLY_FULL:
        return Finding(
            "full",
            "Nearly all downstream connections are in use.",
            "Raise server.max_connections, or run more replicas.",
        )
    may_wait = sample.gauge("waiting_callers_limit")
    if may_wait and sample.gauge("waiting_callers") >= may_wait * _NEARLY_FULL:
        return Finding(
            "waits full",
            "Nearly as many callers wait for running executions as may; those beyond are answered at once.",
            "Raise wait.max_waiting, or run more replicas.",
        )
    waiting = int(min((one.gauge("upstream_waiting") for one in history.recent(_QUEUE_WINDOW_S)), default=0))
    if waiting:
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        return Finding(
            "queueing",
            f"{requests} for a connection to AOS: all are in use.",
            "Check whether AOS is slow; if not, raise upstream.max_connections.",
        )
    if ended:
        workers = "1 worker ended and was" if ended == 1 else f"{ended} times a worker ended; each was"
        return Finding(
            "replaced",
            f"Within the last minute {workers} replaced. Its open requests were cut; all is well again.",
            "See the log for how it ended. If it happens again, check the memory limits first.",
        )
    return Finding("accepting", "It accepts requests.")


def _not_ready(history: History, ended: int) -> Finding:
    # Workers that serve and are not ready are draining.
    if ended and not history.newest.gauge("workers"):
        return Finding(
            "down",
            "No worker accepts requests: they ended.",
            "They are replaced by themselves. If this lasts, see the log.",
            is_bad=True,
        )
    if any(sample.gauge("ready") for sample in history.kept()):
        return Finding(
            "draining",
            "The gateway is stopping: it finishes open requests and accepts no new ones.",
            "Nothing, if the stop is intended.",
        )
    return Finding(
        "starting",
        "The gateway is starting: it accepts no requests yet.",
        "If this lasts, see the log.",
    )


def headline(parts: dict[str, Finding]) -> Finding:
    """Return the worst finding, or that all is well."""
    worst = max(parts.values(), key=lambda finding: finding.level)
    return worst if worst.level else Finding("well", "All is well.")


def _when_idle(history: History) -> Finding:
    """Return the state by the last calls, if there were none lately."""
    ended_s = 0.0
    for step in reversed(list(history.steps())):
        if _calls(step):
            if step.total("upstream_failures") < _calls(step):
                break
            return Finding(
                "unsure",
                f"The last calls to AOS failed, about {ended_s:.0f} s ago; there were none since.",
                "The next call will show. Until then, check upstream.url, AOS and the network.",
            )
        ended_s += step.over_s
    return Finding("idle", "No calls to AOS in the last seconds.")


def _calls(change: Change) -> float:
    # A failure before sending counts as a failure only.
    return max(change.total("upstream_requests"), change.total("upstream_failures"))


def _reaches_back(history: History, wanted_s: float) -> bool:
    """Return whether the recent samples cover this time."""
    recent = history.recent(wanted_s * 1.5)
    return recent[-1].at_s - recent[0].at_s >= wanted_s * 0.75


def _most(counts: dict[str, float]) -> str:
    return max(counts, key=lambda name: counts[name]).replace("_", " ") if counts else "unknown"


def percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")
