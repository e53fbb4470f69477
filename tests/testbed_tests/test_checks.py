"""What tests assert with and choose by: leaks, secrets, ports, the length of a run."""

import asyncio
import base64
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testbed import run_length as plugin
from tests.testbed.address import free_port
from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, fetch
from tests.testbed.faultproxy import FaultProxy
from tests.testbed.leaks import no_leaks
from tests.testbed.redis_server import RedisServer
from tests.testbed.run_length import RunLength, pytest_configure, run_length
from tests.testbed.secrets import assert_absent, pieces, token


async def test_the_kit_itself_leaks_nothing() -> None:
    async with no_leaks():
        async with ScriptedAos() as aos, FaultProxy(aos.address) as proxy:
            aos.answer(Answer())
            await fetch(proxy.address, "/")
            client = await RawClient.connect(proxy.address)
            await aos.wait_until(lambda: aos.connections == 2, "the second connection")
        await client.close()
        with RedisServer() as server:
            await server.command("PING")


async def test_a_task_left_behind_is_named() -> None:
    with pytest.raises(AssertionError, match="task left behind"):
        async with no_leaks(rounds=2, pause_s=0):
            task = asyncio.create_task(asyncio.Event().wait(), name="left behind")
    task.cancel()


async def test_a_descriptor_left_behind_is_named() -> None:
    with pytest.raises(AssertionError, match=r"descriptor \d+: .*socket"):
        async with no_leaks(rounds=2, pause_s=0):
            left = socket.socket()
    left.close()


async def test_a_task_that_is_about_to_end_is_no_leak() -> None:
    async with no_leaks():
        task = asyncio.create_task(asyncio.sleep(0.02))
    assert task.done()


async def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        async with no_leaks():
            raise ZeroDivisionError


SECRET = token("alice", 300)


def _forms(piece: bytes) -> list[bytes]:
    return [
        piece,
        piece.hex().encode(),
        piece.hex().upper().encode(),
        base64.b64encode(piece),
        base64.urlsafe_b64encode(piece),
    ]


@settings(max_examples=30)
@given(
    start=st.integers(0, 284),
    before=st.binary(max_size=40),
    after=st.binary(max_size=40),
    form=st.integers(0, 4),
    around=st.binary(max_size=40),
)
def test_any_window_is_found_in_any_form(
    start: int, before: bytes, after: bytes, form: int, around: bytes
) -> None:
    text = _forms(before + SECRET[start : start + 16] + after)[form]
    with pytest.raises(AssertionError, match="piece of the secret"):
        assert_absent(around + text + around, SECRET)


@settings(max_examples=30)
@given(start=st.integers(0, 285), form=st.integers(0, 2))
def test_fifteen_bytes_are_no_piece(start: int, form: int) -> None:
    assert_absent(b"<" + _forms(SECRET[start : start + 15])[form] + b">", SECRET)


def test_the_error_does_not_show_the_secret() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_absent(SECRET, SECRET)
    assert SECRET[:16].decode() not in str(caught.value)


def test_a_short_secret_is_its_own_window() -> None:
    assert b"short" in pieces(b"short")
    with pytest.raises(AssertionError):
        assert_absent(b"a short one", b"short")


def test_tokens_differ_by_name_only() -> None:
    assert token("alice", 8192) == token("alice", 8192)
    assert len(token("alice", 8192)) == 8192
    assert_absent(token("bob", 8192) * 20, token("alice", 8192))


def test_a_free_port_is_free_and_below_the_range_of_source_ports() -> None:
    port = free_port()
    assert port < 32768
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("options", "variables", "length"),
    [
        ([], {}, RunLength.SHORT),
        (["--long"], {}, RunLength.LONG),
        ([], {"AOS_GATEWAY_LONG": "1"}, RunLength.LONG),
        ([], {"AOS_GATEWAY_LONG": "0"}, RunLength.SHORT),
        (["--long"], {"AOS_GATEWAY_SOAK": "1"}, RunLength.SOAK),
    ],
)
def test_the_longest_that_is_asked_for_counts(
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
    options: list[str],
    variables: dict[str, str],
    length: RunLength,
) -> None:
    monkeypatch.setattr(plugin, "_chosen", RunLength.SHORT)
    for name in ("long", "soak"):
        monkeypatch.delenv(f"AOS_GATEWAY_{name.upper()}", raising=False)
        monkeypatch.setattr(pytestconfig.option, name, f"--{name}" in options)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pytest_configure(pytestconfig)
    assert run_length() is length
    assert not {"AOS_GATEWAY_LONG", "AOS_GATEWAY_SOAK"} & set(os.environ)
