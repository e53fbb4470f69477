"""Requests that an access key signs."""

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from tests.end_to_end.kit import MovableTime, cache_status, is_hit, running_record, settled, until
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos
from tests.testbed.client import RawClient
from tests.testbed.gateway import loaded, running
from tests.testbed.secrets import assert_absent
from tests.testbed.signed_requests import Key, Unsigned, signed_by_sdk

from .kit import ACCESS_KEY, SECRET_KEY, ask, by_key

STACK = TARGET.partition("/actions")[0]
_ALLOW: dict[str, Any] = {
    "credentials__allow": ["GET /v2/stacks/*", "GET /v2/stacks/*/actions/*", "PUT /v2/stacks/*"]
}


def is_right(sent: Received, security_token: str | None = None, secret_key: str = SECRET_KEY) -> bool:
    """Whether the vendor's SDK signs a request as it was signed."""
    date = (sent.get("X-Sdk-Date") or b"").decode()
    path, _, query = sent.target.partition("?")
    parameters = [tuple(pair.split("=")) for pair in query.split("&") if pair]
    names = ("Host", "Content-Type")
    fields = {name: value.decode() for name in names if (value := sent.get(name)) is not None}
    request = Unsigned(
        method=sent.method,
        path=path,
        query=query,
        parameters=parameters,  # type: ignore[arg-type]
        fields=fields,
        body=sent.body,
        key=Key(ACCESS_KEY, secret_key, security_token),
        now_s=datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp(),
    )
    expected = signed_by_sdk(request)
    return sent.all("Authorization") == [expected["Authorization"].encode()]


async def test_each_request_is_signed_as_it_goes_up_and_stored_all_the_same(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(f"{aos.url}/base/path", **by_key(), **_ALLOW) as gateway:
        assert cache_status(await ask(gateway, TARGET)).endswith("stored")
        assert is_hit(await ask(gateway, TARGET))
        assert (await ask(gateway, f"{STACK}?b=2&a=1", method="HEAD")).status == 200
        content = ("Content-Type", "application/json")
        assert (await ask(gateway, STACK, content, method="PUT", body=b'{"a": "b"}')).status == 200
        assert (await ask(gateway, STACK, method="PUT", body=b"x" * 100_000)).status == 200
    assert [sent.method for sent in aos.received] == ["GET", "HEAD", "PUT", "PUT"]
    assert all(sent.target.startswith("/base/path/v2/stacks/") for sent in aos.received)
    assert all(is_right(sent) for sent in aos.received)
    assert all(sent.get("X-Auth-Token") is None for sent in aos.received)
    for sent in aos.received:
        assert_absent(sent.raw_head, SECRET_KEY.encode())


async def test_a_poller_signs_each_fetch_anew(aos: ScriptedAos, now: MovableTime) -> None:
    aos.answer(running_record())
    async with running(aos.url, clock=now.clock, **by_key(), wait__interval_s=0.2) as gateway:
        waiting = asyncio.create_task(ask(gateway, TARGET, ("Prefer", "wait=20")))
        await until(lambda: aos.count() == 1)
        now.set_s = 1_000.0
        await until(lambda: aos.count() >= 2)
        aos.answer(settled())
        assert (await waiting).status == 200
    assert all(is_right(sent) for sent in aos.received)
    assert aos.received[0].get("X-Sdk-Date") != aos.received[1].get("X-Sdk-Date")


async def test_a_reload_takes_another_key_and_a_security_token(aos: ScriptedAos) -> None:
    aos.answer(Answer(401, body=b"no"))
    async with running(aos.url, **by_key()) as gateway:
        assert (await ask(gateway, TARGET)).status == 401
        other = {"credentials__secret_key": "another-secret", "credentials__security_token": "session"}
        await gateway.app.apply(loaded(aos.url, **by_key() | other))
        await ask(gateway, TARGET)
    first, second = aos.received
    assert is_right(first)
    assert is_right(second, "session", "another-secret")
    assert second.get("X-Security-Token") == b"session"


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_beyond_the_bound_of_one_is_refused(aos: ScriptedAos, is_chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked\r\n" if is_chunked else b"Content-Length: 12000001\r\n"
    async with (
        running(aos.url, **by_key(), **_ALLOW) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        head = f"PUT {STACK} HTTP/1.1\r\nHost: {gateway.address}\r\n".encode()
        await client.send(head + framing + b"\r\n")
        if is_chunked:
            with_body = b"%x\r\n%s\r\n" % (12_000_001, b"x" * 12_000_001)
            await client.send(with_body)
        refused = await client.read_response("PUT")
    assert (refused.status, json.loads(refused.body)["code"]) == (413, "GATEWAY.4130001")
    assert aos.heads == []


async def test_bodies_beyond_the_bound_of_all_are_refused_until_there_is_room(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=b"{}")))
    settings = by_key(credentials__body_bytes=1_000)
    async with running(aos.url, **settings, **_ALLOW) as gateway:
        async with await RawClient.connect(gateway.address) as slow:
            head = f"PUT {STACK} HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Length: 600\r\n\r\n".encode()
            await slow.send(head + b"x" * 599)
            await until(lambda: gateway.app.upstream.bodies.left_bytes == 400)
            refused = await ask(gateway, STACK, method="PUT", body=b"x" * 401)
            assert (refused.status, json.loads(refused.body)["code"]) == (503, "GATEWAY.5030004")
            await slow.send(b"x")
            gate.open()
            assert (await slow.read_response("PUT")).status == 200
        assert (await ask(gateway, STACK, method="PUT", body=b"x" * 1_000)).status == 200
        assert gateway.app.upstream.bodies.left_bytes == 1_000
    assert all(is_right(sent) for sent in aos.received)
