"""How the twin reads signatures, held against the vendor's SDK and against what signs in the gateway."""

from collections.abc import Iterator
from random import Random

import msgspec
import pytest

from gateway.core.aos.signing import AccessKey, sign
from gateway.twin.signatures import MAX_SKEW_S, Key, Signed, UnauthorizedError, check
from tests.testbed.signed_requests import NOW_S, Unsigned, requests, signed_by_sdk

KEY = AccessKey("AK", "the secret key")
KEYS = {"AK": Key(access_key="AK", secret_key="the secret key")}
HOST = ("Host", "aos.example.com")


def refusal(request: Signed, keys: dict[str, Key] = KEYS, now_s: float = NOW_S) -> str:
    """Why a request is refused; "" when it is accepted."""
    try:
        check(request, keys, now_s)
    except UnauthorizedError as exc:
        return str(exc)
    return ""


def keys_of(request: Unsigned) -> dict[str, Key]:
    key = request.key
    return {
        key.access_key: Key(
            access_key=key.access_key, secret_key=key.secret_key, security_token=key.security_token
        )
    }


def signed_by_us(
    request: Unsigned, method: str = "", target: str = "", body: bytes | None = None
) -> dict[str, str]:
    """What the gateway sends for a request, or for one that differs from it."""
    key = AccessKey(request.key.access_key, request.key.secret_key, request.key.security_token)
    fields = [*request.fields.items()]
    added = sign(
        key,
        method or request.method,
        target or request.target,
        fields,
        request.body if body is None else body,
        request.now_s,
    )
    return request.fields | dict(added)


def as_sent(request: Unsigned, fields: dict[str, str]) -> Signed:
    """The request as it comes; the values are UTF-8, or already its bytes as Latin-1."""
    lines = [(name.encode(), value.encode()) for name, value in fields.items()]
    return Signed(method=request.method, target=request.target.encode(), fields=lines, body=request.body)


def test_what_the_vendors_sdk_signs_and_what_we_sign_is_accepted() -> None:
    for request in requests(1_000, seed=2):
        theirs = {name: value.encode("latin-1").decode() for name, value in signed_by_sdk(request).items()}
        for fields in (theirs, signed_by_us(request)):
            assert refusal(as_sent(request, fields), keys_of(request), request.now_s) == ""


def with_one_changed_byte(rng: Random, whole: Signed) -> Iterator[Signed]:
    """Change a byte of everything that is signed, and of the signature."""

    def changed(octets: bytes) -> bytes:
        place = rng.randrange(len(octets))
        others = bytes(set(b"abcdef0189") - {octets[place]})
        return octets[:place] + bytes([rng.choice(others)]) + octets[place + 1 :]

    yield msgspec.structs.replace(whole, method=changed(whole.method.encode()).decode())
    yield msgspec.structs.replace(whole, target=changed(whole.target))
    if whole.body:
        yield msgspec.structs.replace(whole, body=changed(whole.body))
    for place, (name, value) in enumerate(whole.fields):
        if b"_" not in name and value.strip():
            lines = [*whole.fields]
            lines[place] = name, changed(value.strip())
            yield msgspec.structs.replace(whole, fields=lines)


def test_one_changed_byte_is_refused_unless_the_request_means_the_same() -> None:
    rng, refused, equal = Random(3), 0, 0
    for request in requests(1_000, seed=3):
        fields = signed_by_us(request)
        whole = as_sent(request, fields)
        for other in with_one_changed_byte(rng, whole):
            # An escape in lower case, or a body that the SDK does not sign.
            is_same = (other.method, other.fields) == (whole.method, whole.fields) and fields == signed_by_us(
                request, target=other.target.decode(), body=other.body
            )
            assert bool(refusal(other, keys_of(request), request.now_s)) != is_same
            refused, equal = refused + (not is_same), equal + is_same
    assert refused > 5_000
    assert 0 < equal < 200


def signed(
    *fields: tuple[str, str], key: AccessKey = KEY, target: str = "/v2/stacks", body: bytes = b""
) -> Signed:
    """A request signed by us, with the signature as its last field."""
    fields = fields or (HOST,)
    lines = [*fields, *sign(key, "GET", target, fields, body, NOW_S)]
    encoded = [(name.encode(), value.encode()) for name, value in lines]
    return Signed(method="GET", target=target.encode(), fields=encoded, body=body)


@pytest.mark.parametrize("off_s", [-MAX_SKEW_S, 0.0, MAX_SKEW_S])
def test_a_clock_may_be_a_quarter_of_an_hour_off(off_s: float) -> None:
    assert refusal(signed(), now_s=NOW_S + off_s) == ""
    if off_s:
        assert "15 minutes" in refusal(signed(), now_s=NOW_S + off_s * 1.01)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Authorization", None, "malformed"),
        ("Authorization", b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=host;x-sdk-date", "malformed"),
        (
            "Authorization",
            b"SDK-HMAC-SHA256 Access=KA, SignedHeaders=host, Signature=" + b"0" * 64,
            "not exist",
        ),
        (
            "Authorization",
            b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature=" + b"0" * 64,
            "in order",
        ),
        (
            "Authorization",
            b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date;host, Signature=" + b"0" * 64,
            "in order",
        ),
        ("X-Sdk-Date", None, "once"),
        ("X-Sdk-Date", b"20231114T221320", "15 minutes"),
        ("X-Sdk-Date", b"20239914T221320Z", "15 minutes"),
        ("Host", b"aos.example.org", "does not match"),
        ("X-Security-Token", b"unexpected", "security token"),
    ],
)
def test_a_request_that_is_not_signed_as_it_must_be_is_refused(
    name: str, value: bytes | None, said: str
) -> None:
    whole = signed()
    lines = [line for line in whole.fields if line[0] != name.encode()]
    lines += [] if value is None else [(name.encode(), value)]
    reason = refusal(msgspec.structs.replace(whole, fields=lines))
    assert said in reason
    assert "secret" not in reason


def test_a_signed_field_must_not_be_there_twice() -> None:
    whole = signed()
    lines = [*whole.fields, (b"host", b"aos.example.com")]
    assert "once" in refusal(msgspec.structs.replace(whole, fields=lines))


def test_a_temporary_key_needs_its_security_token() -> None:
    keys = {"AK": msgspec.structs.replace(KEYS["AK"], security_token="token")}
    right, wrong = (AccessKey("AK", "the secret key", token) for token in ("token", "other"))
    assert refusal(signed(key=right), keys) == ""
    assert "security token" in refusal(signed(key=right))
    assert "security token" in refusal(signed(key=wrong), keys)
    assert "security token" in refusal(signed(), keys)


def test_a_key_shows_no_secret() -> None:
    assert repr(KEYS["AK"]) == "Key('AK')"
