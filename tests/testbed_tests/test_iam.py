"""The scripted IAM of the tests."""

import json
from datetime import UTC, datetime
from typing import Any

from tests.testbed.answers import Answer, AnyAnswer
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.iam import TOKENS, ScriptedIam, moment, odd_answers, said, throttled, word

ASK = f"{TOKENS}?nocatalog=true"


def about(token: bytes, by: bytes | None = None) -> list[tuple[str | bytes, str | bytes]]:
    return [("X-Auth-Token", token if by is None else by), ("X-Subject-Token", token)]


def password(user: str, secret: str, **scope: object) -> bytes:
    who = {"user": {"name": user, "password": secret, "domain": {"name": "company"}}}
    identity = {"methods": ["password"], "password": who}
    return json.dumps({"auth": {"identity": identity, "scope": scope}}).encode()


async def test_it_says_of_each_token_what_it_was_told(iam: ScriptedIam) -> None:
    iam.add(b"T1", user="bob", roles=("reader",), lives_s=60.0)
    iam.add(b"T2", word(project=None, assumed_by={"user": {"id": "x"}}))
    iam.add(b"T3", throttled(Retry_After="7"))
    one, two, three = [await fetch(iam.address, ASK, headers=about(token)) for token in (b"T1", b"T2", b"T3")]
    told = json.loads(one.body)["token"]
    assert (one.status, one.get("X-Subject-Token")) == (200, b"T1")
    assert (told["user"]["name"], told["roles"]) == ("bob", [{"id": "0", "name": "reader"}])
    assert moment() < told["expires_at"] < moment(61.0)
    assert json.loads(two.body)["token"]["assumed_by"] == {"user": {"id": "x"}}
    assert (three.status, three.get("Retry-After")) == (429, b"7")
    assert iam.asked == {b"T1": 1, b"T2": 1, b"T3": 1}


async def test_an_unknown_token_is_refused(iam: ScriptedIam) -> None:
    iam.add(b"T")
    assert (await fetch(iam.address, ASK, headers=about(b"no"))).status == 401
    assert (await fetch(iam.address, ASK, headers=about(b"no", by=b"T"))).status == 404
    iam.remove(b"T")
    refused = await fetch(iam.address, ASK, headers=about(b"T"))
    assert json.loads(refused.body)["error"]["title"] == "Unauthorized"
    assert iam.asked == {b"no": 2, b"T": 1}


async def test_an_answer_about_a_token_can_be_gated_and_a_script_goes_first(iam: ScriptedIam) -> None:
    gate = iam.gate()
    iam.add(b"T", gate.before(said(word())))
    iam.queue(Answer(503))
    assert (await fetch(iam.address, ASK, headers=about(b"T"))).status == 503
    gate.open()
    assert (await fetch(iam.address, ASK, headers=about(b"T"))).status == 200
    assert (gate.reached, iam.asked[b"T"]) == (1, 2)


async def test_a_right_password_gets_a_token_that_is_known_then(iam: ScriptedIam) -> None:
    iam.accounts["company", "alice"] = "secret"
    scope = {"project": {"name": "project-a"}}
    async with await RawClient.connect(iam.address) as client:
        wrong = await client.request("POST", TOKENS, body=password("alice", "guess", **scope))
        malformed = await client.request("POST", TOKENS, body=b"{}")
        right = await client.request("POST", TOKENS, body=password("alice", "secret", **scope))
        (token,) = iam.issued
        told = await client.request("GET", ASK, about(token))
    assert (wrong.status, malformed.status, right.status, told.status) == (401, 400, 201, 200)
    assert (right.get("X-Subject-Token"), len(token), iam.logins) == (token, 4_096, 3)
    assert told.body == right.body


def usable(answer: AnyAnswer) -> bool:
    """Whether a careful reader may believe a described answer."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    if not isinstance(answer, Answer) or answer.status != 200 or len(answer.whole()) > 262_144:
        return False
    try:
        told = json.loads(answer.body.decode(), object_pairs_hook=once, parse_constant=int)["token"]
        ends = datetime.fromisoformat(told["expires_at"])
        assert isinstance(told["user"]["id"], str)
        assert told["user"]["id"]
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        return False
    return ends > datetime.now(UTC) and "Content-Encoding" not in dict(answer.headers)


def test_no_odd_answer_is_usable() -> None:
    assert usable(said(word()))
    assert [name for name, answer in odd_answers(word()).items() if usable(answer)] == []


async def test_an_endless_answer_ends_with_its_caller(iam: ScriptedIam) -> None:
    iam.add(b"T", odd_answers(word())["endless"])
    async with await RawClient.connect(iam.address) as client:
        await client.send(request_bytes("GET", ASK, about(b"T")))
        assert (await client.read_head()).status == 200
        assert await client.read_some()
    await iam.wait_until(lambda: iam.open_connections == 0, "the end of the connection")
