"""The lease: what each reply means, and until when an answer may be given."""

import math

import msgspec
import pytest

from gateway.core.caching.entry import Entry, RunningEntry, seal, unseal
from gateway.core.caching.lease import LARGEST_BYTES, NONCE_BYTES, LeaseLookup, Reply, Step, publication
from tests.core.kit import NOW_S

from .test_entry import ENTRY, GENERATION, KEY, SECRET, key

OTHER_GENERATION = b"h" * len(GENERATION)
OWN, OTHER, THIRD = (letter * NONCE_BYTES for letter in (b"n", b"m", b"l"))
LIFE_S = 2.0
SENT_S = 1000.0
LIVE = msgspec.structs.replace(ENTRY, expires_s=NOW_S + 2 * LIFE_S)


def lookup(accept: bytes = b"", not_before_s: float = -math.inf) -> LeaseLookup:
    made = LeaseLookup(KEY, GENERATION, LIFE_S, secret=SECRET, accept=accept, not_before_s=not_before_s)
    made.nonce = OWN
    return made


def published(nonce: bytes = OTHER, entry: Entry | None = LIVE) -> bytes:
    return publication(KEY, GENERATION, LIFE_S, nonce, entry, secret=SECRET)[1]


def reply(
    lease: bytes | None,
    value: bytes | None = None,
    *,
    left_s: float | None = None,
    generation: bytes | None = GENERATION,
    entry: Entry | None = None,
    later_s: float = 0.0,
) -> Reply:
    return Reply(SENT_S + later_s, NOW_S + later_s, lease, value, generation, entry, left_s)


_STEPS = {
    "its own": (reply(OWN, left_s=2.0), Step.LEAD),
    "its own, and something older beside it": (reply(OWN, published(), left_s=2.0), Step.LEAD),
    "another's, nothing yet": (reply(OTHER, left_s=1.5), Step.WAIT),
    "another's, something older": (reply(OTHER, published(THIRD), left_s=1.5), Step.WAIT),
    "another's result": (reply(OTHER, published(), left_s=1.5), Step.ANSWER),
    "a result that is not for others": (reply(OTHER, published(entry=None), left_s=1.5), Step.ALONE),
    "nothing but a nonce": (reply(OTHER, OTHER, left_s=1.5), Step.ALONE),
    "garbage": (reply(OTHER, OTHER + b"garbage" * 9, left_s=1.5), Step.ALONE),
    "the value of an entry": (
        reply(OTHER, OTHER + seal(KEY, GENERATION, LIVE, SECRET), left_s=1.5),
        Step.ALONE,
    ),
    "another nonce's record": (reply(OTHER, OTHER + published(THIRD)[NONCE_BYTES:], left_s=1.5), Step.ALONE),
    "long over": (
        reply(OTHER, published(entry=msgspec.structs.replace(LIVE, expires_s=NOW_S - 6)), left_s=1.5),
        Step.ALONE,
    ),
    "of another Accept": (
        reply(OTHER, published(entry=msgspec.structs.replace(LIVE, accept=b"text/html")), left_s=1.5),
        Step.ALONE,
    ),
    "a life too long": (reply(OTHER, published(), left_s=2.1), Step.TAKE_OVER),
    "a life without end": (reply(OTHER, left_s=math.inf), Step.TAKE_OVER),
    "no text, without end": (reply(None, left_s=math.inf), Step.TAKE_OVER),
    "over meanwhile": (reply(None, published(), left_s=-math.inf), Step.CLAIM),
    "another generation": (reply(OWN, left_s=2.0, generation=OTHER_GENERATION), Step.AGAIN),
    "no generation": (reply(OTHER, published(), left_s=1.5, generation=None), Step.AGAIN),
    "a settled entry": (reply(OTHER, left_s=1.5, entry=ENTRY), Step.HIT),
    "a settled entry of another Accept": (
        reply(OTHER, left_s=1.5, entry=msgspec.structs.replace(ENTRY, accept=b"text/html")),
        Step.ALONE,
    ),
}


@pytest.mark.parametrize(("given", "step"), _STEPS.values(), ids=_STEPS)
def test_what_a_reply_means(given: Reply, step: Step) -> None:
    assert lookup().next_step(given) is step


def test_the_second_change_of_the_generation_ends_the_attempt() -> None:
    one = lookup()
    assert one.next_step(reply(OTHER, left_s=1.5, generation=OTHER_GENERATION)) is Step.AGAIN
    one.use(OTHER_GENERATION)
    # What was seen under the former one is nothing any more.
    former = publication(KEY, OTHER_GENERATION, LIFE_S, OTHER, LIVE, secret=SECRET)[1]
    assert one.next_step(reply(None, former, generation=OTHER_GENERATION)) is Step.CLAIM
    assert one.next_step(reply(OTHER, left_s=1.5)) is Step.ALONE


@pytest.mark.parametrize(
    ("left_s", "step"),
    [(1.5, Step.ANSWER), (0.9, Step.TAKE_OVER), (-math.inf, Step.CLAIM)],
    ids=["young enough", "too old", "over"],
)
def test_a_fetch_that_began_too_early_is_replaced(left_s: float, step: Step) -> None:
    one = lookup(not_before_s=SENT_S - 1.0)
    is_over = left_s < 0
    given = reply(None if is_over else OTHER, published(), left_s=left_s)
    assert one.next_step(given) is step
    # What is first seen later began later.
    assert one.next_step(reply(THIRD, published(THIRD), later_s=1.0)) is Step.ANSWER


def test_an_answer_ends_with_what_was_left_of_the_lease_when_it_was_first_seen() -> None:
    one = lookup()
    assert one.latest_s == -math.inf
    assert one.next_step(reply(OTHER, left_s=1.5)) is Step.WAIT
    assert one.latest_s == SENT_S + 1.5
    assert one.next_step(reply(None, published(), later_s=9.0)) is Step.ANSWER
    assert one.ends_s == SENT_S + 1.5
    assert isinstance(one.entry, RunningEntry)
    assert one.entry.expires_s == NOW_S + 1.5
    # Fetched half a second before it was seen, rounded up.
    assert one.entry.age_s(NOW_S + 9.0) == 10


def test_a_lease_first_seen_without_its_life_gives_no_time() -> None:
    one = lookup()
    assert one.next_step(reply(OTHER, left_s=1.5)) is Step.WAIT
    assert one.next_step(reply(THIRD, published(THIRD), later_s=1.0)) is Step.ANSWER
    assert one.ends_s == SENT_S + 1.0
    assert one.entry is not None
    assert one.entry.age_s(NOW_S + 1.0) == 2


def test_a_lease_that_outlives_what_it_had_left_is_claimed() -> None:
    one = lookup()
    assert one.next_step(reply(OTHER, left_s=1.5)) is Step.WAIT
    assert one.next_step(reply(OTHER, later_s=1.5)) is Step.WAIT
    assert one.next_step(reply(OTHER, later_s=1.6)) is Step.CLAIM
    # It is really none, or this clock is ahead.
    assert one.next_step(reply(OTHER, left_s=math.inf, later_s=1.6)) is Step.TAKE_OVER
    assert one.next_step(reply(OTHER, left_s=0.1, later_s=1.6)) is Step.WAIT


def test_a_lease_first_seen_without_its_life_is_claimed_next() -> None:
    one = lookup()
    assert one.next_step(reply(OTHER, left_s=1.5)) is Step.WAIT
    assert one.next_step(reply(THIRD, later_s=1.0)) is Step.WAIT
    assert one.next_step(reply(THIRD, later_s=1.1)) is Step.CLAIM
    assert one.next_step(reply(THIRD, left_s=1.2, later_s=1.1)) is Step.WAIT
    assert one.latest_s == SENT_S + 1.1 + 1.2


def test_a_result_is_bound_to_its_place() -> None:
    name, value = publication(KEY, GENERATION, LIFE_S, OTHER, LIVE, secret=SECRET)
    sealed = value[NONCE_BYTES:]
    assert unseal(KEY, GENERATION, sealed, SECRET, NOW_S, name=name + OTHER) == LIVE
    # As the entry it would be settled.
    assert unseal(KEY, GENERATION, sealed, SECRET, NOW_S) is None
    assert unseal(KEY, GENERATION, sealed, b"other", NOW_S, name=name + OTHER) is None


def test_a_large_record_is_not_published() -> None:
    large = msgspec.structs.replace(LIVE, body=b"x" * (LARGEST_BYTES + 1))
    assert published(entry=large) == published(entry=None)


def test_keys_hold_generation_and_life_and_share_the_slot_of_the_entry() -> None:
    tag = KEY.name[KEY.name.index(b"{") : KEY.name.index(b"}") + 1]
    names = [
        name
        for one in (KEY, key(caller=b"bob"))
        for generation in (GENERATION, OTHER_GENERATION)
        for life_s in (1.0, 1.5)
        for name in one.lease_names(generation, life_s)
    ]
    assert len(set(names)) == len(names)
    assert all(tag in name for name in names)
