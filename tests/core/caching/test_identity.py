"""Who asks, and in which variant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.identity import Identity, IdentityReader, keyed, prefers_json, variant
from gateway.core.http.messages import Fields
from tests.core.kit import BOUNDED, TOKEN, texts

HEADERS = (b"x-project-id", b"x-domain-id", b"x-security-token", b"x-subject-token", b"cookie")
BY_CALLER = IdentityReader(HEADERS, b"secret", shared=False)
SHARED = IdentityReader(HEADERS, b"secret", shared=True)

token = (TOKEN, b"t0ken")


def known(fields: Fields, identity_reader: IdentityReader = BY_CALLER) -> Identity:
    identity = identity_reader.identify(fields)
    assert isinstance(identity, Identity)
    return identity


def test_one_token_makes_a_caller() -> None:
    identity = known((token, (b"Accept", b"x")))
    assert identity.credential == identity.user == identity.entry
    assert len(identity.credential) == 32


def test_the_same_credential_is_the_same_caller_whatever_else_it_sends() -> None:
    assert known((token, (b"Cookie", b"c"))) == known(
        ((b"Cookie", b"c"), (b"Accept", b"x"), (b"x-auth-token", b"t0ken"))
    )


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((TOKEN, b""),),
        (token, token),
        (token, (b"x-AUTH-token", b"other")),
        (token, (b"Authorization", b"Basic eDp5")),
        (token, (b"Authorization", b"")),
        (token, (b"X-Project-Id", b"p"), (b"X-Project-Id", b"p")),
        (token, (b"Cookie", b"a"), (b"cookie", b"b")),
        (token, (b"X_Auth_Token", b"other")),
        ((b"X_Auth_Token", b"t0ken"),),
        (token, (b"x-project_id", b"p")),
        (token, (b"X-HTTP-Method-Override", b"DELETE")),
        (token, (b"X-HTTP-Method", b"DELETE")),
        (token, (b"X-Method-Override", b"DELETE")),
        (token, (b"x_http_method_override", b"DELETE")),
    ],
)
@pytest.mark.parametrize("identity_reader", [BY_CALLER, SHARED])
def test_an_ambiguous_identity_bypasses_the_cache(fields: Fields, identity_reader: IdentityReader) -> None:
    assert identity_reader.identify(fields) is Reason.IDENTITY


def test_a_look_alike_of_a_name_with_underscores_is_a_disguise_too() -> None:
    identity_reader = IdentityReader((b"x_tenant",), b"", shared=False)
    assert identity_reader.identify((token, (b"X-Tenant", b"a"))) is Reason.IDENTITY
    assert known((token, (b"X_Tenant", b"a")), identity_reader) != known(
        (token, (b"X_Tenant", b"b")), identity_reader
    )


def test_a_signed_request_bypasses_under_its_own_name() -> None:
    assert BY_CALLER.identify((token, (b"Authorization", b"SDK-HMAC-SHA256 Access=AK"))) is Reason.SIGNED


def test_an_underscore_in_other_fields_is_no_disguise() -> None:
    assert known((token, (b"X_Own", b"1"))) == known((token,))


def test_in_shared_scope_entries_have_one_owner_and_fetches_have_not() -> None:
    one, other = known((token,), SHARED), known(((TOKEN, b"other"),), SHARED)
    assert one.entry == other.entry
    assert one.credential != other.credential
    assert one.credential == known((token,)).credential


def test_another_secret_gives_another_digest() -> None:
    assert known((token,)) != known((token,), IdentityReader(HEADERS, b"other", shared=False))
    assert known((token,)) != known((token,), IdentityReader(HEADERS, b"", shared=False))


def test_the_token_is_an_identity_header_without_being_configured() -> None:
    assert known((token,), IdentityReader((), b"", shared=False)) == known(
        (token,), IdentityReader((b"x-auth-token",), b"", shared=False)
    )


@pytest.mark.parametrize("size", [0, 1, 64, 65, 1000])
def test_a_secret_of_any_length_makes_a_key(size: int) -> None:
    secret = b"s" * size
    assert len(keyed(secret)) <= 64
    assert keyed(secret) != keyed(secret + b"s")
    known((token,), IdentityReader((), secret, shared=False))


credentials = st.fixed_dictionaries(
    {TOKEN.lower(): texts.filter(bool)}, optional=dict.fromkeys(HEADERS, texts)
).map(lambda sent: tuple(sent.items()))


@BOUNDED
@given(credentials, credentials)
def test_any_difference_in_an_identity_header_is_another_caller(one: Fields, other: Fields) -> None:
    assert (known(one) == known(other)) == (dict(one) == dict(other))


@BOUNDED
@given(credentials, st.sampled_from(HEADERS), texts)
def test_present_absent_and_empty_differ_and_values_cannot_slide(
    sent: Fields, name: bytes, value: bytes
) -> None:
    base = tuple(field for field in sent if field[0] != name)
    neighbours = [base, (*base, (name, b"")), (*base, (name, b"-")), (*base, (name, value + b"1:x"))]
    assert len({known(fields).credential for fields in neighbours}) == len(neighbours)


def test_what_moves_from_one_header_to_another_is_another_caller() -> None:
    one = known((token, (b"X-Project-Id", b"p"), (b"X-Domain-Id", b"")))
    other = known((token, (b"X-Project-Id", b""), (b"X-Domain-Id", b"p")))
    assert one != other


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Accept-Encoding", b"gzip"),),
        ((b"Accept", b"a"),),
        ((b"Accept-Language", b"a"),),
        ((b"X-Language", b"a"),),
        ((b"Accept", b""),),
        ((b"Accept", b"a"), (b"Accept", b"")),
        ((b"Accept", b"a"), (b"Accept", b"a")),
        ((b"Origin", b"https://a"),),
        ((b"origin", b""),),
    ],
)
def test_each_negotiated_field_makes_another_variant(fields: Fields) -> None:
    others = [(), ((b"Accept", b"b"),), ((b"Accept-Language", b"1:a"),), ((b"X-Language", b"|1"),)]
    assert variant(fields) not in {variant(other) for other in others}


def test_of_accept_encoding_only_gzip_or_not_counts() -> None:
    assert variant(((b"Accept-Encoding", b"br"),)) == variant(())
    assert variant(((b"Accept-Encoding", b"br, gzip;q=0.1"),)) == variant(((b"Accept-Encoding", b"gzip"),))


def test_of_origin_only_sent_or_not_counts() -> None:
    assert variant(((b"Origin", b"https://a"),)) == variant(((b"Origin", b"https://b"),))


def test_other_fields_are_no_part_of_the_variant() -> None:
    assert variant((token, (b"User-Agent", b"x"))) == variant(())


@pytest.mark.parametrize("name", [b"Accept", b"Accept-Language", b"X-Language"])
def test_a_negotiated_field_over_64_bytes_has_no_variant(name: bytes) -> None:
    assert variant(((name, b"a" * 64),)) is not None
    assert variant(((name, b"a" * 65),)) is None
    assert variant(((name, b"a" * 40), (name, b"a" * 40))) is None


def test_a_long_accept_encoding_still_has_a_variant() -> None:
    assert variant(((b"Accept-Encoding", b"gzip, " * 50),)) is not None


negotiated = st.lists(
    st.tuples(st.sampled_from([b"accept", b"accept-language", b"x-language"]), texts), max_size=4
)


@BOUNDED
@given(negotiated, negotiated)
def test_variants_are_equal_only_when_every_negotiated_field_is(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    first, second = variant(tuple(one)), variant(tuple(other))
    if first is not None and second is not None:
        by_name = [sorted(fields, key=lambda field: field[0]) for fields in (one, other)]
        assert (first == second) == (by_name[0] == by_name[1])


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], True),
        ([b"*/*"], True),
        ([b"application/json"], True),
        ([b"APPLICATION/json ; charset=UTF-8"], True),
        ([b'application/json;charset="utf-8";q=0.9'], True),
        ([b"application/json, text/plain, */*"], True),
        ([b"application/json, text/javascript, */*; q=0.01"], True),
        ([b"application/json, application/*+json"], True),
        ([b"application/json", b"*/*;q=0.5"], True),
        ([b", application/json,"], True),
        ([b"*/*;q=0.8"], True),
        ([b"application/*;q=0.3"], True),
        ([b"text/*;q=0.5, application/*;Q=1.000"], True),
        # Something is more welcome, or may be.
        ([b"text/html, */*;q=0.8"], False),
        ([b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], False),
        ([b"*/*, application/json;q=0.1"], False),
        ([b"application/json;version=2"], False),
        ([b"application/json;version=2, */*"], False),
        ([b"application/vnd.aos+json"], False),
        # Not welcome at all, or not readable.
        ([b"application/json;q=0"], False),
        ([b"*/*;q=0.000"], False),
        ([b""], False),
        ([b"*"], False),
        ([b"application/json;q=2"], False),
        ([b"application/json, application/json;q=0.1"], False),
    ],
)
def test_an_accept_that_prefers_json_is_recognised(accept: list[bytes], expected: bool) -> None:
    assert prefers_json(accept) is expected
    sent, none = variant(tuple((b"Accept", value) for value in accept)), variant(())
    assert sent is not None
    assert none is not None
    assert (sent.general == none.general) is expected
    assert (sent.exact == none.exact) is (not accept)
