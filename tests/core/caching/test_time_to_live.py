"""How long a storable record stays fresh, and what the origin's freshness changes in it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.policy import Rules, StoreDecision
from gateway.core.caching.request_directives import entity_tag
from gateway.core.http.messages import Fields
from tests.core.kit import (
    ACCESS_S,
    BOUNDED,
    CALLER,
    DAY_S,
    HOUR_S,
    IGNORING,
    SHARED,
    TERMINAL,
    UNSETTLED_S,
    decided,
    fetched_response,
    reason_not_stored,
)
from tests.testbed.payloads import ABSENT, record


def ttl_s(
    body: bytes,
    *fields: tuple[bytes, bytes],
    rules: Rules = SHARED,
    settling: bool = False,
    uncertain: bool = False,
) -> float:
    decision = decided(fetched_response(body, *fields), rules, settling=settling, uncertain=uncertain)
    assert decision.reason is None
    return decision.ttl_s


@pytest.mark.parametrize(
    ("phase", "expected_s"),
    [("Succeeded", DAY_S), ("Failed", HOUR_S), ("Cancelled", HOUR_S), ("ForceCancelled", HOUR_S)],
)
def test_each_phase_has_its_time_to_live(phase: str, expected_s: float) -> None:
    assert ttl_s(record(phase)) == expected_s


@pytest.mark.parametrize("strategy", ["Rollback", "donothing", "DoNothing ", "", None, ABSENT])
def test_an_unsettled_failure_lives_briefly(strategy: object) -> None:
    assert ttl_s(record("Failed", spec__onFailureStrategy=strategy)) == UNSETTLED_S


@pytest.mark.parametrize("phase", ["Succeeded", "Cancelled", "ForceCancelled"])
def test_the_failure_strategy_matters_to_a_failure_alone(phase: str) -> None:
    assert ttl_s(record(phase, spec__onFailureStrategy="Rollback")) > UNSETTLED_S


@pytest.mark.parametrize("phase", TERMINAL)
def test_what_is_fetched_soon_after_a_write_lives_briefly(phase: str) -> None:
    assert ttl_s(record(phase), settling=True) == UNSETTLED_S


@pytest.mark.parametrize("phase", ["Succeeded", "Cancelled"])
def test_in_caller_scope_nothing_lives_longer_than_a_revoked_token_may(phase: str) -> None:
    assert ttl_s(record(phase), rules=CALLER) == ACCESS_S
    assert ttl_s(record(phase), rules=CALLER, settling=True) == UNSETTLED_S


def test_in_shared_scope_the_same_bound_holds_while_writes_may_have_gone_unseen() -> None:
    assert ttl_s(record(), uncertain=True) == ACCESS_S
    assert ttl_s(record(), uncertain=False) == DAY_S


@pytest.mark.parametrize(
    ("phase", "rules", "settling", "expected_s"),
    [
        ("Succeeded", SHARED, False, DAY_S - 20),
        ("Failed", SHARED, False, HOUR_S - 20),
        ("Succeeded", SHARED, True, UNSETTLED_S - 20),
        ("Succeeded", CALLER, True, UNSETTLED_S - 20),
        # How long a caller may see it begins with this fetch.
        ("Succeeded", CALLER, False, ACCESS_S),
        ("Succeeded", IGNORING, False, DAY_S),
    ],
)
def test_the_age_a_record_came_with_is_taken_off(
    phase: str, rules: Rules, settling: bool, expected_s: float
) -> None:
    assert ttl_s(record(phase), (b"Age", b"20"), rules=rules, settling=settling) == expected_s


def test_a_record_older_than_its_time_to_live_is_not_stored() -> None:
    assert reason_not_stored(record(), (b"Age", b"%d" % DAY_S)) is Reason.EXPIRED
    assert reason_not_stored(record("Failed"), (b"Age", b"%d" % HOUR_S), rules=CALLER) is Reason.EXPIRED


def test_a_further_configured_phase_lives_as_a_failure() -> None:
    rules = msgspec.structs.replace(SHARED, terminal_phases=SHARED.terminal_phases | {"CancelFailed"})
    assert ttl_s(record("CancelFailed"), rules=rules) == HOUR_S


def test_a_phase_taken_out_of_the_list_is_not_stored() -> None:
    rules = msgspec.structs.replace(SHARED, terminal_phases=frozenset({"Succeeded"}))
    assert reason_not_stored(record("Failed"), rules=rules) is Reason.PHASE


def test_a_time_to_live_of_zero_stores_nothing() -> None:
    rules = msgspec.structs.replace(SHARED, ttl_succeeded_s=0.0)
    decision = decided(fetched_response(record()), rules)
    assert msgspec.structs.replace(decision, record=None) == StoreDecision(
        Reason.EXPIRED, 0.0, is_record=True, phase="Succeeded", etag=entity_tag(record())
    )


@pytest.mark.parametrize(
    ("rules", "expected_s"),
    [
        (SHARED, DAY_S),
        (CALLER, ACCESS_S),
        (msgspec.structs.replace(SHARED, ttl_failed_s=2 * DAY_S), 2 * DAY_S),
        (msgspec.structs.replace(CALLER, access_ttl_s=9 * DAY_S), DAY_S),
    ],
)
def test_the_longest_time_to_live_is_known(rules: Rules, expected_s: float) -> None:
    assert rules.longest_ttl_s == expected_s


@BOUNDED
@given(
    st.sampled_from(TERMINAL),
    st.sampled_from(["DoNothing", "Rollback", ABSENT]),
    st.booleans(),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(0, 200_000),
)
def test_no_time_to_live_passes_any_of_its_bounds(
    phase: str, strategy: object, shared: bool, seen: tuple[bool, bool], max_age_s: int
) -> None:
    rules = msgspec.structs.replace(SHARED, shared=shared)
    settling, uncertain = seen
    decision = decided(
        fetched_response(
            record(phase, spec__onFailureStrategy=strategy), (b"Cache-Control", b"max-age=%d" % max_age_s)
        ),
        rules,
        settling=settling,
        uncertain=uncertain,
    )
    assert 0 <= decision.ttl_s <= min(max_age_s, rules.longest_ttl_s)
    assert (decision.ttl_s == 0) == (decision.reason is not None)
    if settling:
        assert decision.ttl_s <= UNSETTLED_S


# The origin's freshness

FORBIDDEN = [
    (((b"Cache-Control", b"no-store"),), Reason.NO_STORE),
    (((b"Cache-Control", b"private"),), Reason.PRIVATE),
    (((b"Cache-Control", b"no-cache"),), Reason.NO_CACHE),
    (((b"Cache-Control", b"max-age=0"),), Reason.EXPIRED),
    (((b"Cache-Control", b"s-maxage=0"),), Reason.EXPIRED),
    (((b"Cache-Control", b"max-age=60"), (b"Age", b"60")), Reason.EXPIRED),
    (((b"Cache-Control", b"max-age=soon"),), Reason.UNREADABLE_FRESHNESS),
    (((b"Cache-Control", b"@"),), Reason.UNREADABLE_FRESHNESS),
    (((b"CDN-Cache-Control", b"no-store"),), Reason.NO_STORE),
    (((b"Expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),), Reason.EXPIRED),
    (((b"Expires", b"0"),), Reason.UNREADABLE_FRESHNESS),
    (((b"Pragma", b"no-cache"),), Reason.NO_CACHE),
    (((b"Age", b"x"),), Reason.UNREADABLE_FRESHNESS),
]


@pytest.mark.parametrize(("fields", "reason"), FORBIDDEN)
def test_what_the_origin_forbids_is_stored_only_if_configured(fields: Fields, reason: Reason) -> None:
    assert reason_not_stored(record(), *fields) is reason
    assert ttl_s(record(), *fields, rules=IGNORING) == DAY_S


TIMES = [
    (((b"Cache-Control", b"max-age=60"),), 60),
    (((b"Cache-Control", b"max-age=60, s-maxage=90"),), 90),
    (((b"Cache-Control", b"max-age=60"), (b"Age", b"20")), 40),
    (((b"Cache-Control", b"max-age=60"), (b"CDN-Cache-Control", b"max-age=5")), 5),
    (((b"Expires", b"Tue, 14 Nov 2023 22:14:20 GMT"),), 60),
]


@pytest.mark.parametrize(("fields", "expected_s"), TIMES)
def test_each_time_the_origin_names_caps_the_time_to_live(fields: Fields, expected_s: float) -> None:
    assert ttl_s(record(), *fields) == expected_s
    assert ttl_s(record(), *fields, rules=IGNORING) == DAY_S


def test_the_origin_never_lengthens_the_time_to_live() -> None:
    assert ttl_s(record(), (b"Cache-Control", b"max-age=9999999")) == DAY_S
    assert ttl_s(record("Failed"), (b"Cache-Control", b"max-age=9999999")) == HOUR_S


def test_must_understand_is_met_by_a_200() -> None:
    assert ttl_s(record(), (b"Cache-Control", b"must-understand")) == DAY_S


def test_cookies_and_vary_are_obeyed_even_when_the_origins_freshness_is_ignored() -> None:
    assert reason_not_stored(b"", (b"Set-Cookie", b"a=b"), rules=IGNORING) is Reason.SET_COOKIE
    assert reason_not_stored(b"", (b"Vary", b"*"), rules=IGNORING) is Reason.VARY
