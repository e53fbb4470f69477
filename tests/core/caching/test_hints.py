"""Hints about settled records that are not stored."""

import msgspec
import pytest

from gateway.core.caching.hints import hint
from gateway.core.caching.policy import Rules
from tests.core.kit import CALLER, SHARED, decided, fetched_response
from tests.testbed.payloads import record

TOKEN_FOR_ALL = msgspec.structs.replace(SHARED, identity_headers=frozenset({b"x-auth-token"}))


@pytest.mark.parametrize(
    ("field", "rules", "remedy"),
    [
        ((b"Cache-Control", b"no-store"), CALLER, "says no-store; cache.origin_cache_control"),
        ((b"Cache-Control", b"private"), CALLER, "says private; cache.origin_cache_control"),
        (
            (b"Cache-Control", b"max-age=soon"),
            CALLER,
            "malformed Cache-Control, Expires or Age; cache.origin_cache_control",
        ),
        ((b"Set-Cookie", b"a=b"), CALLER, "remove Set-Cookie"),
        ((b"Vary", b"X-Tenant"), CALLER, "by x-tenant (Vary); add it to cache.identity_headers"),
        ((b"Vary", b"*"), CALLER, "by * (Vary), which can differ between requests for one record"),
        ((b"Vary", b"X-Request-Id"), CALLER, "which can differ between requests for one record"),
        ((b"Vary", b"X-Tenant"), TOKEN_FOR_ALL, "which can differ between requests for one record"),
        (
            (b"Vary", b"X-Auth-Token"),
            TOKEN_FOR_ALL,
            'which cache.scope = "shared" does not separate',
        ),
    ],
)
def test_what_the_origin_forbids_has_a_remedy(field: tuple[bytes, bytes], rules: Rules, remedy: str) -> None:
    received = fetched_response(record(), field)
    text = hint(received, decided(received, rules), rules)
    assert text is not None
    assert remedy in text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (record(), (b"Vary", b"Accept")),
        (record("Running"), (b"Vary", b"*")),
        (record(metadata__name="other"), (b"Vary", b"Accept")),
        (b"no record", (b"Cache-Control", b"no-store")),
    ],
)
def test_what_is_stored_or_not_settled_needs_none(body: bytes, field: tuple[bytes, bytes]) -> None:
    received = fetched_response(body, field)
    assert hint(received, decided(received), SHARED) is None
