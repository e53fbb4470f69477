"""Shared by the tests of the core: rules, responses, requests."""

import json
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.policy import FetchedResponse, Rules, StoreDecision, decide_store
from gateway.core.http.messages import Fields, Head, Request
from tests.testbed.payloads import ACTION_ID, TARGET, record

BOUNDED = settings(max_examples=100, deadline=None)

NOW_S = 1_700_000_000.0

DAY_S = 86_400.0
HOUR_S = 3_600.0
ACCESS_S = 300.0
UNSETTLED_S = 30.0

SHARED = Rules(
    shared=True,
    obey_origin=True,
    terminal_phases=frozenset({"Succeeded", "Failed", "Cancelled", "ForceCancelled"}),
    access_ttl_s=ACCESS_S,
    ttl_succeeded_s=DAY_S,
    ttl_failed_s=HOUR_S,
    ttl_unsettled_s=UNSETTLED_S,
    max_body_bytes=100_000,
)

CALLER = msgspec.structs.replace(SHARED, shared=False)
IGNORING = msgspec.structs.replace(SHARED, obey_origin=False)

TERMINAL = ["Succeeded", "Failed", "Cancelled", "ForceCancelled"]

TOKEN = b"X-Auth-Token"

names = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True)
texts = st.binary(max_size=20).map(lambda data: bytes(byte for byte in data if byte >= 0x20 and byte != 0x7F))


def fetched_response(
    body: bytes,
    *fields: tuple[bytes, bytes],
    status: int = 200,
    complete: bool = True,
    request: Fields = (),
    action_id: str = ACTION_ID,
) -> FetchedResponse:
    """A whole response to the execution call."""
    return FetchedResponse(Head(status, b"OK", fields), body, complete, request, action_id.encode(), NOW_S)


def request(
    *fields: tuple[bytes, bytes], method: str = "GET", target: str = TARGET, body_bytes: int | None = 0
) -> Request:
    """A request as it comes from a caller on 192.0.2.7."""
    return Request(
        method=method,
        target=target.encode(),
        fields=fields,
        peer=b"192.0.2.7",
        scheme=b"http",
        body_bytes=body_bytes,
        request_id=b"request-1",
    )


def minimal(**members: Any) -> bytes:
    """A record with only these members."""
    return json.dumps(members).encode()


def decided(
    received: FetchedResponse, rules: Rules = SHARED, *, settling: bool = False, uncertain: bool = False
) -> StoreDecision:
    """The decision about a response."""
    return decide_store(received, rules, settling=settling, uncertain=uncertain)


def reason_not_stored(
    body: bytes = b"", *fields: tuple[bytes, bytes], rules: Rules = SHARED, **more: Any
) -> Reason | None:
    """Why a body, the example record by default, is not stored."""
    return decided(fetched_response(body or record(), *fields, **more), rules).reason
