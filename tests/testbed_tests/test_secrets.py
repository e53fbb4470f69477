"""The search for pieces of a token."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.testbed.secrets import assert_absent, pieces, token

SECRET = token("alice", 300)


def _forms(piece: bytes) -> list[bytes]:
    return [
        piece,
        piece.hex().encode(),
        piece.hex().upper().encode(),
        base64.b64encode(piece),
        base64.urlsafe_b64encode(piece),
    ]


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


@given(start=st.integers(0, 285), form=st.integers(0, 2))
def test_fifteen_bytes_are_no_piece(start: int, form: int) -> None:
    assert_absent(b"<" + _forms(SECRET[start : start + 15])[form] + b">", SECRET)


@given(st.binary(max_size=2000))
def test_other_bytes_are_absent(haystack: bytes) -> None:
    assert_absent(haystack, SECRET)


def test_every_piece_is_found_by_itself() -> None:
    for piece in pieces(SECRET[:20]):
        with pytest.raises(AssertionError):
            assert_absent(b"." + piece + b".", SECRET)


def test_the_error_does_not_tell_the_secret() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_absent(SECRET, SECRET)
    assert SECRET[:16].decode() not in str(caught.value)


def test_a_short_secret_is_its_own_window() -> None:
    assert b"short" in pieces(b"short")
    with pytest.raises(AssertionError):
        assert_absent(b"a short one", b"short")


def test_tokens_differ_by_name_alone() -> None:
    assert token("alice", 8192) == token("alice", 8192)
    assert len(token("alice", 8192)) == 8192
    assert_absent(token("bob", 8192) * 20, token("alice", 8192))
