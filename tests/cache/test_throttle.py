"""Callers whom the upstream asked to wait."""

from gateway.cache.throttle import Throttle
from gateway.clock import Clock
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import fetch
from tests.testbed.gateway import running


class _Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> Clock:
        return Clock(monotonic_s=lambda: self.now_s)


def test_a_held_caller_waits_until_the_time_is_over() -> None:
    time = _Time()
    throttle = Throttle(time.clock())
    throttle.hold(b"a", 10.0)
    assert throttle.wait_s(b"a") == 10.0
    assert throttle.wait_s(b"b") is None
    time.now_s += 10.0
    assert throttle.wait_s(b"a") is None
    assert len(throttle) == 0


def test_of_too_many_throttled_callers_the_oldest_is_dropped() -> None:
    throttle = Throttle(_Time().clock(), limit=2)
    for caller in (b"a", b"b", b"c"):
        throttle.hold(caller, 10.0)
    assert throttle.wait_s(b"a") is None
    assert throttle.wait_s(b"c") == 10.0


async def test_a_throttled_callers_misses_stay_here_while_hits_and_other_callers_go_on(
    aos: ScriptedAos,
) -> None:
    other = TARGET.replace("trim-4074942376", "other")
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("GET", other, Answer(429, headers=[("Retry-After", "30")], body=b"{}"))
    async with running(aos.url) as gateway:
        await fetch(gateway.address, TARGET, token="a")
        first = await fetch(gateway.address, other, token="a")
        held = await fetch(gateway.address, other, token="a")
        hit = await fetch(gateway.address, TARGET, token="a")
        stranger = await fetch(gateway.address, other, token="b")
    assert (first.status, first.body) == (429, b"{}")
    assert held.status == 429
    assert held.get("Content-Type") == b"application/problem+json"
    assert held.get("Proxy-Status") == b"aos-gateway; error=http_request_denied"
    assert held.get("Retry-After") == b"30"
    assert hit.status == 200
    assert stranger.body == b"{}"
    assert aos.count("GET", other) == 2
