"""No caller gets what the upstream sent to another."""

import asyncio
import logging

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, record
from tests.testbed.client import Headers, RawResponse, fetch
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.secrets import assert_absent

from .kit import ALICE, BOB, all_busy, cache_status, get, is_hit, settled

_TOKEN = ("X-Auth-Token", ALICE)


def _signature(scheme: str = "SDK-HMAC-SHA256", names: str = "host;x-sdk-date") -> tuple[str, str]:
    return ("Authorization", f"{scheme} Access=AK, SignedHeaders={names}, Signature=0123abcd")


# Callers with the token of Alice or without one whom the upstream may take for somebody else.
_STRANGERS: dict[str, list[tuple[str, str | bytes]]] = {
    "another token": [("X-Auth-Token", BOB)],
    "a beginning of her token": [("X-Auth-Token", ALICE[:-1])],
    "her token and more": [("X-Auth-Token", ALICE + b"=")],
    "her token in another case": [("X-Auth-Token", ALICE.swapcase())],
    "no token": [],
    "an empty token": [("X-Auth-Token", "")],
    "her token twice": [_TOKEN, _TOKEN],
    "her token and another": [_TOKEN, ("X-Auth-Token", BOB)],
    "another token and hers": [("X-Auth-Token", BOB), _TOKEN],
    "an empty token and hers": [("X-Auth-Token", ""), _TOKEN],
    "two tokens in one line": [("X-Auth-Token", ALICE + b", " + BOB)],
    "her token with underscores": [("X_Auth_Token", ALICE)],
    "her token with one underscore": [("x-auth_token", ALICE)],
    "her token beside one with underscores": [_TOKEN, ("X_AUTH_TOKEN", BOB)],
    "her token beside a bearer": [_TOKEN, ("Authorization", "Bearer abc")],
    "a bearer alone": [("Authorization", b"Bearer " + ALICE)],
    "her token beside an empty Authorization": [_TOKEN, ("Authorization", "")],
    "her token in another project": [_TOKEN, ("X-Project-Id", "p1")],
    "her token in an empty project": [_TOKEN, ("X-Project-Id", "")],
    "her token and a project with underscores": [_TOKEN, ("X_Project_Id", "p1")],
    "her token and two projects": [_TOKEN, ("X-Project-Id", "p1"), ("X-Project-Id", "p2")],
    "her token in another domain": [_TOKEN, ("X-Domain-Id", "d1")],
    "her token and a security token": [_TOKEN, ("X-Security-Token", "s")],
    "her token and a subject token": [_TOKEN, ("X-Subject-Token", "s")],
    "her token in an enterprise project": [_TOKEN, ("X-Enterprise-Project-Id", "e")],
    "her token and an app code": [_TOKEN, ("X-Apig-AppCode", "c")],
    "her token and a cookie": [_TOKEN, ("Cookie", "session=1")],
}


class MarkedUpstream:
    """Answers every request with a settled record and marks each response."""

    def __init__(self, *, equal_bodies: bool) -> None:
        self.answered = 0
        self._equal_bodies = equal_bodies

    def marks(self, number: int) -> list[bytes]:
        """What stands in the answer of this number and in no other."""
        head = [b"mark-%d-" % number, b"req-%d-" % number, b"left-%d-" % number, b"trace-%d-" % number]
        return head if self._equal_bodies else [*head, b"body-%d-" % number]

    async def __call__(self, received: Received, conversation: Conversation) -> None:
        """Answer one request."""
        self.answered += 1
        number = self.answered
        body = record() if self._equal_bodies else record(status__progress=f"body-{number}-")
        fields = [
            ("X-Mark", f"mark-{number}-"),
            ("X-Request-Id", f"req-{number}-"),
            ("X-RateLimit-Remaining", f"left-{number}-"),
            ("RateLimit", f"left-{number}-"),
            ("traceparent", f"trace-{number}-"),
        ]
        await conversation.answer(Answer(headers=fields, body=body))


def _holds_only(response: RawResponse, upstream: MarkedUpstream, number: int) -> None:
    seen = response.raw_head + response.body
    for other in range(1, upstream.answered + 1):
        if other != number:
            assert not any(mark in seen for mark in upstream.marks(other))


async def _ask(gateway: RunningGateway, headers: Headers, method: str = "GET") -> RawResponse:
    return await fetch(gateway.address, TARGET, method=method, headers=headers)


@pytest.mark.parametrize(
    ("stranger", "equal_bodies"),
    [
        *((stranger, False) for stranger in _STRANGERS.values()),
        (_STRANGERS["another token"], True),
        (_STRANGERS["no token"], True),
    ],
    ids=[*_STRANGERS, "another token, equal bodies", "no token, equal bodies"],
)
async def test_two_callers_see_nothing_of_each_others_responses(
    aos: ScriptedAos,
    gateway: RunningGateway,
    stranger: list[tuple[str, str | bytes]],
    equal_bodies: bool,
) -> None:
    upstream = MarkedUpstream(equal_bodies=equal_bodies)
    aos.answer(upstream)
    _holds_only(await _ask(gateway, stranger), upstream, 1)

    first = await _ask(gateway, [_TOKEN])
    _holds_only(first, upstream, 2)
    assert upstream.answered == 2
    assert is_hit(await _ask(gateway, [_TOKEN]))

    # His own response may come from his own entry.
    again = await _ask(gateway, stranger)
    _holds_only(again, upstream, 1 if is_hit(again) else upstream.answered)
    fresh = await _ask(gateway, [*stranger, ("Cache-Control", "no-cache")])
    _holds_only(fresh, upstream, upstream.answered)
    head = await _ask(gateway, stranger, "HEAD")
    assert not any(mark in head.raw_head for mark in upstream.marks(2))

    own = await _ask(gateway, [_TOKEN])
    assert is_hit(own)
    _holds_only(own, upstream, 2)


@pytest.mark.parametrize("stranger", _STRANGERS.values(), ids=_STRANGERS.keys())
async def test_a_stranger_does_not_join_the_fetch_of_alice(
    aos: ScriptedAos, gateway: RunningGateway, stranger: list[tuple[str, str | bytes]]
) -> None:
    upstream = MarkedUpstream(equal_bodies=False)
    gate = aos.gate()
    aos.answer(gate.before(upstream))
    asked = [asyncio.create_task(_ask(gateway, headers)) for headers in ([_TOKEN], stranger)]
    await aos.wait_received(2)
    gate.open()
    answers = await asyncio.gather(*asked)
    found = [response.get("x-mark") for response in answers]
    assert sorted(found, key=repr) == [b"mark-1-", b"mark-2-"]


async def test_an_entity_tag_of_alice_reveals_nothing_to_a_stranger(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(MarkedUpstream(equal_bodies=False))
    tag = (await get(gateway)).get("etag")
    assert tag is not None
    answer = await get(gateway, TARGET, ("If-None-Match", tag), token=BOB)
    assert answer.status == 200
    assert aos.count() == 2


async def test_a_stranger_who_asks_for_stored_answers_only_gets_none(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(settled())
    await get(gateway)
    for token in (BOB, None):
        answer = await get(gateway, TARGET, ("Cache-Control", "only-if-cached"), token=token)
        assert answer.status == 504
    assert aos.count() == 1


async def test_shared_scope_shares_the_record_but_not_the_fields_of_one_exchange(
    aos: ScriptedAos,
) -> None:
    upstream = MarkedUpstream(equal_bodies=False)
    aos.answer(upstream)
    async with running(aos.url, cache__scope="shared") as gateway:
        await get(gateway)
        shared = await get(gateway, TARGET, ("X-Request-Id", "mine"), token=BOB)
    assert is_hit(shared)
    assert b"body-1-" in shared.body
    assert shared.get("x-mark") == b"mark-1-"
    assert shared.get("x-request-id") == b"mine"
    for mark in (b"req-1-", b"left-1-", b"trace-1-"):
        assert mark not in shared.raw_head
    assert aos.count() == 1


@pytest.mark.parametrize(
    "stranger",
    [headers for name, headers in _STRANGERS.items() if not headers or "underscore" in name],
)
async def test_shared_scope_asks_for_a_credential_that_can_be_recognised(
    aos: ScriptedAos, stranger: list[tuple[str, str | bytes]]
) -> None:
    upstream = MarkedUpstream(equal_bodies=False)
    aos.answer(upstream)
    async with running(aos.url, cache__scope="shared") as gateway:
        await get(gateway)
        answer = await _ask(gateway, stranger)
    assert cache_status(answer) == "aos-gateway; fwd=bypass; fwd-status=200; detail=identity"
    _holds_only(answer, upstream, 2)


async def test_in_shared_scope_one_callers_refusal_is_not_anothers(aos: ScriptedAos) -> None:
    gate = aos.gate()

    async def answer(received: Received, conversation: Conversation) -> None:
        await gate.passed()
        known = received.get("x-auth-token") == ALICE
        await conversation.answer(settled() if known else Answer(401))

    aos.answer(answer)
    async with running(aos.url, cache__scope="shared") as gateway:
        asked = [asyncio.create_task(get(gateway, token=token)) for token in (BOB, ALICE)]
        await aos.wait_received(2)
        gate.open()
        assert [response.status for response in await asyncio.gather(*asked)] == [401, 200]


@pytest.mark.parametrize("scheme", ["SDK-HMAC-SHA256", "V11-HMAC-SHA256"])
async def test_a_signed_request_bypasses_and_arrives_as_it_was_signed(
    aos: ScriptedAos, gateway: RunningGateway, scheme: str
) -> None:
    upstream = MarkedUpstream(equal_bodies=False)
    aos.answer(upstream)
    await get(gateway)
    names = "content-type;host;x-forwarded-for;x-forwarded-host;via;x-project-id;x-sdk-date;accept-encoding"
    signed = [
        ("Host", aos.address.upper()),
        ("Content-Type", "application/json;  charset=utf-8"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("x-forwarded-HOST", "aos.example"),
        ("Via", "1.1 somebody"),
        ("X-Project-Id", "p1"),
        ("X-Sdk-Date", "20300101T000000Z"),
        ("Accept-Encoding", "br, gzip"),
        ("X-Auth-Token", ALICE.decode()),
        _signature(scheme, names),
    ]
    for times in (1, 2):
        answer = await _ask(gateway, signed)
        assert cache_status(answer) == "aos-gateway; fwd=bypass; fwd-status=200; detail=signed"
        _holds_only(answer, upstream, 1 + times)
        came = aos.received[-1]
        for name, value in signed:
            assert came.all(name) == [value.encode()]
        assert came.target == TARGET


@pytest.mark.parametrize("target", ["/v2/a%2Fb//../c;d?x=%20&&y&z=a+b", TARGET + "?", TARGET + "?b=2&a=1"])
async def test_path_and_query_of_a_signed_request_are_not_touched(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.answer(settled())
    await fetch(gateway.address, target, headers=[("Host", aos.address), _signature()])
    assert aos.received[0].target == target


async def test_a_request_signed_for_a_foreign_host_is_refused(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    answer = await fetch(gateway.address, TARGET, headers=[("Host", "aos.example"), _signature()])
    assert answer.status == 421
    found = answer.json()
    assert found["code"] == "GATEWAY.4210001"
    assert "signed" in found["detail"]
    assert "upstream.signed_hosts" in found["detail"]
    assert aos.count() == 0


async def test_a_request_may_be_signed_for_a_configured_host(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, upstream__signed_hosts=["aos.example"]) as gateway:
        answer = await fetch(gateway.address, TARGET, headers=[("Host", "AOS.example"), _signature()])
    assert answer.status == 200
    assert aos.received[0].get("host") == b"AOS.example"


async def test_shared_scope_on_tcp_refuses_foreign_hosts(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, cache__scope="shared", upstream__signed_hosts=["aos.example"]) as gateway:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
            refused = await get(gateway, TARGET, ("Host", host))
            assert refused.status == 421
            assert "server.admin_hosts" in refused.json()["detail"]
        for host in ("localhost", "127.0.0.1:1", "[::1]", "10.1.2.3", aos.address, "aos.example"):
            assert (await get(gateway, TARGET, ("Host", host))).status == 200


async def test_the_log_contains_no_piece_of_a_token(
    aos: ScriptedAos, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    aos.queue(settled(), Answer(500, headers=[("X-Echo", ALICE)], body=ALICE))
    aos.answer(lambda _, conversation: _cut(conversation))
    async with running(aos.url) as gateway:
        for _ in range(4):
            await get(gateway, TARGET, ("Cache-Control", "no-cache"), ("Cookie", BOB))
        await get(gateway)
        await get(gateway, f"{TARGET}?token={ALICE.decode()}", ("Authorization", b"Bearer " + BOB))
        await get(gateway, "/v2/stacks", ("Connection", "X-Auth-Token"))
        await fetch(gateway.address, TARGET, headers=[(b"X-Auth-Token ", ALICE)])
        await fetch(gateway.address, TARGET, headers=[(b"X-Auth-Token", ALICE + b"\x01")])
        await fetch(gateway.address, f"/{ALICE.decode()}\x7f", headers=[_TOKEN])
    assert caplog.text
    for secret in (ALICE, BOB):
        assert_absent(caplog.text.encode(), secret)


async def _cut(conversation: Conversation) -> None:
    conversation.abort()


async def test_callers_who_wait_for_one_fetch_get_the_same_response(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    upstream = MarkedUpstream(equal_bodies=False)
    gate = aos.gate()
    aos.answer(gate.before(upstream))
    asked = [asyncio.create_task(get(gateway)) for _ in range(3)]
    await all_busy(gateway, 3)
    gate.open()
    for response in await asyncio.gather(*asked):
        _holds_only(response, upstream, 1)
    assert upstream.answered == 1
