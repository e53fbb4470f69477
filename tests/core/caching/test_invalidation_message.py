"""Invalidation messages between replicas."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.invalidation_message import InvalidationMessage, read_message
from tests.core.kit import BOUNDED

MESSAGE = InvalidationMessage(stack="abc", age_s=1.5, settles=True, sender="replica-1")
MEMBERS = {"stack": "abc", "age_s": 1.5, "settles": True, "sender": "replica-1"}


def test_a_message_is_plain_json() -> None:
    assert json.loads(msgspec.json.encode(MESSAGE)) == MEMBERS


@BOUNDED
@given(
    st.builds(
        InvalidationMessage,
        stack=st.from_regex(r"[a-z0-9._~-]{1,64}", fullmatch=True),
        age_s=st.floats(0, 1e9),
        settles=st.booleans(),
        sender=st.text("abc-1", max_size=40),
    )
)
def test_what_was_written_is_read(message: InvalidationMessage) -> None:
    assert read_message(msgspec.json.encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        json.dumps({**MEMBERS, "further": 1}).encode(),
        json.dumps({**MEMBERS, "stack": ""}).encode(),
        json.dumps({**MEMBERS, "stack": "ABC"}).encode(),
        json.dumps({**MEMBERS, "stack": "a" * 65}).encode(),
        json.dumps({**MEMBERS, "stack": "a\n"}).encode(),
        json.dumps({**MEMBERS, "age_s": -1}).encode(),
        json.dumps({**MEMBERS, "age_s": None}).encode(),
        json.dumps({**MEMBERS, "settles": 1}).encode(),
        json.dumps({**MEMBERS, "sender": "x" * 512}).encode(),
        json.dumps(MEMBERS).encode().replace(b"replica", b"\xff"),
        json.dumps(MEMBERS).encode().replace(b"1.5", b"NaN"),
        json.dumps(MEMBERS).encode().replace(b"1.5", b"1e999"),
        b"[" * 512,
    ],
)
def test_anything_else_is_no_invalidation_message(data: bytes) -> None:
    assert read_message(data) is None


@BOUNDED
@given(st.binary(max_size=100), st.binary(max_size=8))
def test_no_bytes_make_the_reader_fail(data: bytes, stack: bytes) -> None:
    assert read_message(data) is None
    read_message(json.dumps(MEMBERS).encode().replace(b"abc", stack))
