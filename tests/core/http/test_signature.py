"""Access-key signatures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.signature import access_keys, is_signed, signed_fields
from tests.core.kit import BOUNDED

SCHEMES = ["SDK-HMAC-SHA256", "SDK-HMAC-SM3", "SDK-ECDSA-P256-SHA256", "SDK-SM2-SM3", "V11-HMAC-SHA256"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("stack_key", [str, str.lower])
def test_each_scheme_is_recognised(scheme: str, stack_key: type[str]) -> None:
    value = f"{stack_key(scheme)} Access=AK, SignedHeaders=host;X-Sdk-Date, Signature=00".encode()
    assert is_signed(((b"authorization", value),))
    assert signed_fields(((b"Authorization", value),)) == {b"host", b"x-sdk-date"}


@pytest.mark.parametrize(
    "value", [b"", b"Basic eDp5", b"Bearer SDK-HMAC-SHA256", b"SDK-HMAC-SHA2567 Access=AK"]
)
def test_other_authorization_is_no_signature(value: bytes) -> None:
    fields = ((b"Authorization", value + b", SignedHeaders=host"),)
    assert not is_signed(fields)
    assert signed_fields(fields) == frozenset()


def test_nothing_is_signed_without_authorization() -> None:
    assert not is_signed(((b"X-Sdk-Date", b"20260101T000000Z"),))
    assert signed_fields(()) == frozenset()


def test_one_signed_line_among_others_is_enough() -> None:
    fields = ((b"Authorization", b"Basic eDp5"), (b"Authorization", b"SDK-HMAC-SM3 SignedHeaders=a"))
    assert is_signed(fields)
    assert signed_fields(fields) == {b"a"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (b"Access=AK,signedheaders=Host;;x-a ; ,Signature=0", {b"host", b"x-a"}),
        (b"SignedHeaders=", set()),
        (b"SignedHeaders", set()),
        (b"Access=AK", set()),
    ],
)
def test_signed_headers_are_read_leniently(parameters: bytes, expected: set[bytes]) -> None:
    assert signed_fields(((b"Authorization", b"SDK-HMAC-SHA256 " + parameters),)) == expected


def test_access_keys_are_those_that_signatures_name() -> None:
    signed = b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature=0"
    fields = ((b"Authorization", b"Basic access=x"), (b"Authorization", signed))
    assert access_keys(fields) == (b"AK",)
    assert access_keys(((b"X-Auth-Token", b"t"),)) == ()


@BOUNDED
@given(st.binary(max_size=80))
def test_no_authorization_makes_the_reader_fail(value: bytes) -> None:
    for line in (value, b"SDK-HMAC-SHA256 " + value):
        fields = ((b"Authorization", line),)
        assert signed_fields(fields) == frozenset() or is_signed(fields)
