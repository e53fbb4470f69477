"""Throttled callers are counted in bounds, on any call, by origin of the 429."""

from gateway.clock import Clock
from gateway.core.caching.identity import IdentityReader
from gateway.telemetry.caller_digest import CallerDigest
from gateway.telemetry.throttled import MOST, ThrottledCaller, ThrottledCallers, merged
from tests.testbed.aos import TARGET, Answer, ScriptedAos
from tests.testbed.client import fetch
from tests.testbed.gateway import running

_DIGEST = CallerDigest(IdentityReader((), b"key", shared=False), b"key")
_ALICE, _BOB = ((b"X-Auth-Token", b"alice"),), ((b"X-Auth-Token", b"bob"),)
_WAIT = Answer(429, headers=[("Retry-After", "60")], body=b"slow down")


async def test_a_running_gateway_names_throttled_callers_on_any_call(aos: ScriptedAos) -> None:
    aos.on("GET", TARGET, _WAIT)
    aos.on("GET", "/v2/workflows", Answer(429, body=b"slow down"))
    aos.on("GET", "/v2/templates", Answer())
    async with running(aos.url, cache__secret="key") as gateway:
        for _ in range(3):
            assert (await fetch(gateway.address, TARGET, token="alice")).status == 429
        assert (await fetch(gateway.address, "/v2/workflows", token="bob")).status == 429
        assert (await fetch(gateway.address, "/v2/templates", token="carol")).status == 200
        first, second = gateway.app.throttled()
        counted, name = gateway.app.metrics.throttled, gateway.app._caller_digest.of
    assert (first.caller, first.upstream, first.here) == (name(_ALICE), 1, 2)
    assert (second.caller, second.upstream, second.here) == (name(_BOB), 1, 0)
    assert counted == {"upstream": 2, "gateway": 2}


def test_a_signed_caller_is_one_however_he_signs_and_those_without_credential_are_together() -> None:
    throttled = ThrottledCallers(Clock(), _DIGEST)
    for number in range(3):
        signed = b"SDK-HMAC-SHA256 Access=KEY, SignedHeaders=host, Signature=%d" % number
        throttled.count(((b"Authorization", signed),), is_own=False)
    for _ in range(2):
        throttled.count(((b"Host", b"h"),), is_own=False)
    one, nobody = throttled.most()
    assert one.caller
    assert (one.upstream, nobody.caller, nobody.upstream) == (3, "", 2)


def test_a_caller_not_throttled_for_five_minutes_starts_from_zero() -> None:
    now_s = 1000.0
    throttled = ThrottledCallers(Clock(monotonic_s=lambda: now_s), _DIGEST)
    throttled.count(_ALICE, is_own=False)
    now_s += 299
    throttled.count(_BOB, is_own=False)
    assert [one.age_s for one in throttled.most()] == [299.0, 0.0]
    now_s += 2
    assert [one.caller for one in throttled.most()] == [_DIGEST.of(_BOB)]
    throttled.count(_ALICE, is_own=True)
    [alice] = [one for one in throttled.most() if one.caller == _DIGEST.of(_ALICE)]
    assert (alice.upstream, alice.here) == (0, 1)


def test_the_callers_kept_are_bounded_and_the_ten_most_throttled_listed() -> None:
    throttled = ThrottledCallers(Clock(), _DIGEST)
    for number in range(MOST + 10):
        throttled.count(((b"X-Auth-Token", b"%d" % number),), is_own=False)
    assert len(throttled._counts) == MOST
    throttled.count(((b"X-Auth-Token", b"%d" % (MOST + 5)),), is_own=False)
    most = throttled.most()
    assert len(most) == 10
    assert most[0].caller == _DIGEST.of(((b"X-Auth-Token", b"%d" % (MOST + 5)),))


def test_the_counts_of_several_processes_add_up() -> None:
    one = [ThrottledCaller("a", 1, 2, 5.0), ThrottledCaller("b", 4, 0, 1.0)]
    assert merged([one, [ThrottledCaller("a", 3, 0, 2.0)]]) == [
        ThrottledCaller("a", 4, 2, 2.0),
        ThrottledCaller("b", 4, 0, 1.0),
    ]
