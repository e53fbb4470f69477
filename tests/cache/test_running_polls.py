"""Polls of running executions are counted, and what `cache.ttl_running_s` would spare where it is off."""

from collections.abc import Callable

import pytest

from gateway.cache import running_polls
from tests.end_to_end.kit import ALICE, BOB, MovableTime, get
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.payloads import ABSENT
from tests.testbed.redis_server import RedisServer

_RUNNING = Answer(body=record("Running"))
_STACK = f"/v2/stacks/{STACK_ID}"


def _counts(gateway: RunningGateway) -> tuple[int, int]:
    metrics = gateway.app.metrics
    return metrics.running_polls, metrics.running_polls_avoidable


async def test_a_poll_within_a_second_of_a_fetch_counts_as_avoidable(aos: ScriptedAos, lane: str) -> None:
    now = MovableTime()
    aos.answer(_RUNNING)
    async with running(aos.url, clock=now.clock) as gateway:
        # The second and third would have been given the first one's record, and so on.
        for step_s, expected in ((0.0, (1, 0)), (0.4, (2, 1)), (0.4, (3, 2)), (0.4, (4, 2)), (0.9, (5, 3))):
            now.ahead_s += step_s
            await get(gateway)
            assert _counts(gateway) == expected
        # Another caller's and another variant's records are others.
        await get(gateway, token=BOB)
        await get(gateway, TARGET, ("Accept-Language", "en"))
        assert _counts(gateway) == (7, 3)
    assert aos.count() == 7


_STILL_CHANGING = {
    "an unknown phase": record("Frobnicating"),
    "a delete": record(spec__actionName="delete"),
    "a moving part": record(status__subObjectStatuses={"vm": {"phase": "Running"}}),
}


@pytest.mark.parametrize("body", _STILL_CHANGING.values(), ids=_STILL_CHANGING)
async def test_every_record_that_may_still_change_counts(aos: ScriptedAos, body: bytes) -> None:
    aos.answer(Answer(body=body))
    async with running(aos.url) as gateway:
        for _ in range(3):
            await get(gateway)
        assert _counts(gateway) == (3, 2)


_NEVER_GIVEN_AGAIN = {
    "no-store": Answer(headers=[("Cache-Control", "no-store")], body=record("Running")),
    "no time left": Answer(headers=[("Cache-Control", "max-age=0")], body=record("Running")),
    "a cookie": Answer(headers=[("Set-Cookie", "a=b")], body=record("Running")),
}


@pytest.mark.parametrize("answer", _NEVER_GIVEN_AGAIN.values(), ids=_NEVER_GIVEN_AGAIN)
async def test_what_would_not_have_been_kept_spares_nothing(aos: ScriptedAos, answer: Answer) -> None:
    aos.answer(answer)
    async with running(aos.url) as gateway:
        for _ in range(3):
            await get(gateway)
        assert _counts(gateway) == (3, 0)


@pytest.mark.parametrize("answer", [Answer(body=record()), Answer(500), Answer(body=b"[]")])
async def test_other_responses_are_no_polls_of_running_executions(aos: ScriptedAos, answer: Answer) -> None:
    aos.queue(answer)
    async with running(aos.url) as gateway:
        await get(gateway)
        assert _counts(gateway) == (0, 0)


@pytest.mark.parametrize(
    "field",
    [
        ("Cache-Control", "no-cache"),
        ("Cache-Control", "no-store"),
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "min-fresh=1"),
        ("Pragma", "no-cache"),
        ("Accept", "application/json, text/event-stream;q=0.5"),
    ],
)
async def test_a_caller_who_wants_what_is_new_could_not_be_spared(
    aos: ScriptedAos, field: tuple[str, str]
) -> None:
    aos.answer(_RUNNING)
    async with running(aos.url) as gateway:
        for _ in range(3):
            await get(gateway, TARGET, field)
        assert _counts(gateway) == (3, 0)


async def test_a_poll_that_asks_to_wait_could_not_be_spared(aos: ScriptedAos) -> None:
    aos.answer(_RUNNING)
    async with running(aos.url, wait__interval_s=0.1, wait__max_interval_s=0.1) as gateway:
        await get(gateway, TARGET, ("Prefer", "wait=1"))
        polls, avoidable = _counts(gateway)
        assert polls > 2
        assert avoidable == 0


async def _write(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("PUT", _STACK, Answer(202), times=1)
    await get(gateway, _STACK, method="PUT", body=b"{}")


async def _purge(_: ScriptedAos, gateway: RunningGateway) -> None:
    await gateway.app.purge(STACK_ID)


async def _refuse(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("GET", TARGET, Answer(403), times=1)
    await get(gateway)


@pytest.mark.parametrize("end", [_write, _purge, _refuse])
async def test_what_ends_a_copy_ends_what_it_would_have_spared(
    aos: ScriptedAos, end: Callable[[ScriptedAos, RunningGateway], object]
) -> None:
    aos.answer(_RUNNING)
    async with running(aos.url) as gateway:
        await get(gateway)
        ended = end(aos, gateway)
        assert hasattr(ended, "__await__")
        await ended
        await get(gateway)
        assert _counts(gateway) == (2, 0)


@pytest.mark.parametrize(
    ("scope", "memory_bytes", "ttl_running_s", "expected"),
    [
        ("shared", 1_000_000, 0.0, (2, 1)),
        ("caller", 1_000_000, 0.0, (2, 0)),
        # There would be no place for a copy.
        ("shared", 0, 0.0, (2, 0)),
        ("shared", 1_000_000, 1.0, (1, 0)),
    ],
)
async def test_it_goes_by_the_configuration(
    aos: ScriptedAos,
    redis: RedisServer,
    scope: str,
    memory_bytes: int,
    ttl_running_s: float,
    expected: tuple[int, int],
) -> None:
    aos.answer(_RUNNING)
    async with running(
        aos.url,
        redis__url=redis.url,
        cache__scope=scope,
        cache__memory_bytes=memory_bytes,
        cache__ttl_running_s=ttl_running_s,
    ) as gateway:
        for caller in (ALICE, BOB):
            await get(gateway, token=caller)
        assert _counts(gateway) == expected


async def test_one_line_says_once_what_is_to_be_gained(
    aos: ScriptedAos, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", running_polls.__name__)
    monkeypatch.setattr(running_polls, "LEAST_POLLS", 6)
    now = MovableTime()
    aos.answer(_RUNNING)
    async with running(aos.url, clock=now.clock) as gateway:
        # Nobody would be spared anything.
        for _ in range(8):
            now.ahead_s += 1.1
            await get(gateway)
        assert not caplog.records
        for _ in range(4):
            await get(gateway)
    [line] = caplog.records
    assert (line.levelname, line.getMessage()) == (
        "INFO",
        "100 % of the 9 fetches until now were polls of running executions; "
        "cache.ttl_running_s = 1 would have spared 11 % of the fetches",
    )


async def test_a_bounded_number_of_records_is_remembered(
    aos: ScriptedAos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_polls, "MOST", 2)
    aos.answer(Answer(body=record("Running", name=ABSENT)))
    async with running(aos.url) as gateway:
        for action in ("a", "b", "c", "a", "c"):
            await get(gateway, f"{_STACK}/actions/{action}")
        # The first of them was forgotten for the third.
        assert _counts(gateway) == (5, 1)
