"""Our signatures are the vendor's: its own SDK signs the same requests."""

import pytest

from gateway.core.aos.signing import AccessKey, sign
from tests.testbed.signed_requests import NOW_S, Unsigned, requests, signed_by_sdk

KEY = AccessKey("AK", "SK")
HOST = [("Host", "aos.example.com")]


def added(request: Unsigned) -> dict[str, str]:
    """What we add to a request."""
    key = AccessKey(request.key.access_key, request.key.secret_key, request.key.security_token)
    fields = [*request.fields.items()]
    return dict(sign(key, request.method, request.target, fields, request.body, request.now_s))


def test_a_thousand_requests_are_signed_as_by_the_vendors_sdk() -> None:
    for request in requests(1_000):
        theirs = signed_by_sdk(request)
        assert added(request) == {name: theirs[name] for name in theirs.keys() - request.fields.keys()}


def test_the_requests_have_what_is_hard_to_sign() -> None:
    made = requests(1_000)
    assert sum("%2f" in request.path.lower() for request in made) > 100
    assert sum("+" in request.query for request in made) > 50
    assert sum(len({name for name, _ in r.parameters}) < len(r.parameters) for r in made) > 100
    assert sum(("", "") in request.parameters or "&&" in request.query for request in made) > 10
    assert sum(not request.target.isprintable() for request in made) == 0
    assert sum(bool(request.key.security_token) for request in made) > 200
    assert sum("X-Sdk-Content-Sha256" in added(request) for request in made) > 100


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/a/"),
        ("/a", "/%61"),
        ("/a%2Fb", "/a/b"),
        ("/a?", "/a"),
        ("/a?x", "/a?x="),
        ("/a?x=1&y=2", "/a?y=2&x=1"),
        ("/a?x=2&x=1", "/a?x=1&x=2"),
        ("/a?x=+", "/a?x=%20"),
    ],
)
def test_the_same_target_written_otherwise_has_the_same_signature(one: str, other: str) -> None:
    assert sign(KEY, "GET", one, HOST, b"", NOW_S) == sign(KEY, "GET", other, HOST, b"", NOW_S)


def test_a_method_is_signed_in_upper_case() -> None:
    assert sign(KEY, "get", "/", HOST, b"", NOW_S) == sign(KEY, "GET", "/", HOST, b"", NOW_S)


def test_a_body_is_signed_whatever_it_is_unless_another_type_is_signed() -> None:
    form = [*HOST, ("content-type", "multipart/form-data; boundary=b")]
    bodies = (b"one", b"two", b"")
    with_type = [sign(KEY, "POST", "/v2/templates", form, body, NOW_S) for body in bodies]
    without = [sign(KEY, "POST", "/v2/templates", HOST, body, NOW_S) for body in bodies]
    assert with_type[0] == with_type[1] != with_type[2]
    assert len({dict(fields)["Authorization"] for fields in without}) == 3


def test_secrets_are_not_shown() -> None:
    key = AccessKey("AK", "the secret key", "the token")
    assert repr(key) == "AccessKey(access_key='AK')"
