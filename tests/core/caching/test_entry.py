"""The stored entry and its bytes."""

import math
from hashlib import blake2b

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.entry import GENERATION_BYTES, Entry, seal, unseal, verified_entries
from gateway.core.caching.identity import keyed
from gateway.core.caching.key import ENTRY_VERSION, EntryKey, KeySpace
from gateway.core.http.messages import Head
from tests.core.kit import BOUNDED, NOW_S, names, texts

SPACE = KeySpace("aosgw", b"upstream")
GENERATION = b"g" * GENERATION_BYTES
SECRET = b"secret"


def key(
    caller: bytes = b"alice", variant: bytes = b"v", stack: bytes = b"s", action: bytes = b"a"
) -> EntryKey:
    return SPACE.entry(caller, variant, ExecutionRef(stack, action, has_query=False))


KEY = key()
ENTRY = Entry(
    lines=Head(200, b"OK", ((b"Content-Type", b"application/json"),)).lines(),
    body=b"{}",
    fetched_s=NOW_S,
    expires_s=NOW_S + 300,
    upstream_age_s=0,
)
SEALED = seal(KEY, GENERATION, ENTRY, SECRET)

heads = st.builds(Head, st.just(200), texts, st.lists(st.tuples(names, texts), max_size=4).map(tuple))
entries = st.builds(
    Entry,
    lines=heads.map(Head.lines),
    body=st.binary(max_size=60),
    fetched_s=st.floats(NOW_S - 1000, NOW_S),
    expires_s=st.floats(NOW_S, NOW_S + 1000),
    accept=texts,
    upstream_age_s=st.integers(0, 2**40),
)


@BOUNDED
@given(heads)
def test_a_head_comes_back_out_of_its_lines_as_it_was(head: Head) -> None:
    assert msgspec.structs.replace(ENTRY, lines=head.lines()).head() == head


@BOUNDED
@given(entries, st.binary(max_size=80))
def test_what_was_sealed_is_unsealed(entry: Entry, secret: bytes) -> None:
    assert unseal(KEY, GENERATION, seal(KEY, GENERATION, entry, secret), secret, NOW_S) == entry


@BOUNDED
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_a_miss(place: int, mask: int) -> None:
    damaged = bytearray(SEALED)
    damaged[place] ^= mask
    assert unseal(KEY, GENERATION, bytes(damaged), SECRET, NOW_S) is None


@BOUNDED
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_what_was_verified_vouches_for_the_same_bytes_alone(place: int, mask: int) -> None:
    verified = verified_entries()
    damaged = bytearray(SEALED)
    damaged[place] ^= mask
    for _ in range(2):
        assert unseal(KEY, GENERATION, SEALED, SECRET, NOW_S, verified=verified) == ENTRY
        assert unseal(KEY, GENERATION, bytes(damaged), SECRET, NOW_S, verified=verified) is None
    assert unseal(key(caller=b"bob"), GENERATION, SEALED, SECRET, NOW_S, verified=verified) is None
    assert unseal(KEY, b"h" * GENERATION_BYTES, SEALED, SECRET, NOW_S, verified=verified) is None
    assert unseal(KEY, GENERATION, SEALED, SECRET, NOW_S - 6, verified=verified) is None
    assert list(verified) == [KEY.name]


def test_what_was_verified_is_bounded_in_bytes_and_the_oldest_goes_first() -> None:
    verified = verified_entries()
    keys = [key(action=b"%d" % number) for number in range(8)]
    for one in (*keys, keys[-1]):
        sealed = seal(one, GENERATION, msgspec.structs.replace(ENTRY, body=bytes(1_048_576)), SECRET)
        assert unseal(one, GENERATION, sealed, SECRET, NOW_S, verified=verified) is not None
    assert list(verified) == [one.name for one in keys[-3:]]


def test_any_shortened_form_is_a_miss() -> None:
    for size in range(len(SEALED)):
        assert unseal(KEY, GENERATION, SEALED[:size], SECRET, NOW_S) is None, size
        assert unseal(KEY, GENERATION, SEALED[size + 1 :], SECRET, NOW_S) is None, size


@BOUNDED
@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    assert unseal(KEY, GENERATION, data, SECRET, NOW_S) is None
    assert unseal(KEY, GENERATION, SEALED + data[:1] + b"x", SECRET, NOW_S) is None


@pytest.mark.parametrize(
    "other",
    [
        key(caller=b"bob"),
        key(caller=b"alic", variant=b"ev"),
        key(variant=b"w"),
        key(stack=b"S"),
        key(stack=b"sa", action=b""),
        key(action=b"b"),
        KeySpace("other", b"upstream").entry(b"alice", b"v", ExecutionRef(b"s", b"a", has_query=False)),
        KeySpace("aosgw", b"elsewhere").entry(b"alice", b"v", ExecutionRef(b"s", b"a", has_query=False)),
    ],
)
def test_an_entry_is_no_answer_under_another_key(other: EntryKey) -> None:
    assert unseal(other, GENERATION, SEALED, SECRET, NOW_S) is None


@BOUNDED
@given(st.tuples(*[st.text("ab:1", max_size=3).map(str.encode)] * 4))
def test_an_entry_is_usable_for_its_own_caller_variant_and_execution_alone(
    parts: tuple[bytes, bytes, bytes, bytes],
) -> None:
    sealed = seal(key(b"a", b"b", b"1", b":"), GENERATION, ENTRY, SECRET)
    found = unseal(key(*parts), GENERATION, sealed, SECRET, NOW_S)
    assert (found is not None) == (parts == (b"a", b"b", b"1", b":"))


def test_an_entry_is_usable_in_its_own_generation_alone() -> None:
    assert unseal(KEY, GENERATION, SEALED, SECRET, NOW_S) is not None
    assert unseal(KEY, b"h" * GENERATION_BYTES, SEALED, SECRET, NOW_S) is None
    assert unseal(KEY, b"", SEALED, SECRET, NOW_S) is None


@pytest.mark.parametrize("secret", [b"", b"Secret", b"s" * 65])
def test_an_entry_sealed_with_another_secret_is_a_miss(secret: bytes) -> None:
    assert unseal(KEY, GENERATION, SEALED, secret, NOW_S) is None
    assert unseal(KEY, GENERATION, seal(KEY, GENERATION, ENTRY, secret), SECRET, NOW_S) is None


def test_a_fetch_from_the_future_by_more_than_5_s_is_a_miss() -> None:
    assert unseal(KEY, GENERATION, SEALED, SECRET, NOW_S - 5) == ENTRY
    assert unseal(KEY, GENERATION, SEALED, SECRET, NOW_S - 5.1) is None


def test_an_entry_past_its_end_is_returned_and_tells_so() -> None:
    entry = unseal(KEY, GENERATION, SEALED, SECRET, NOW_S + 301)
    assert entry is not None
    assert entry.ttl_s(NOW_S + 301) == -1


@pytest.mark.parametrize(
    "changes",
    [
        {"fetched_s": math.nan},
        {"fetched_s": -math.inf},
        {"fetched_s": math.inf},
        {"expires_s": math.nan},
        {"expires_s": math.inf},
        {"upstream_age_s": -1},
    ],
)
def test_times_that_make_no_sense_are_a_miss(changes: dict[str, float]) -> None:
    entry = msgspec.structs.replace(ENTRY, **changes)
    assert unseal(KEY, GENERATION, seal(KEY, GENERATION, entry, SECRET), SECRET, NOW_S) is None


def resealed(content: bytes) -> bytes:
    """Any content with a right tag, as one who can write and has the secret could make it."""
    tag = blake2b(digest_size=32, key=keyed(SECRET), person=b"aosgw-tag")
    tag.update(b"%d:%s" % (len(KEY.name), KEY.name))
    tag.update(content)
    return content + tag.digest()


def contents(**changes: object) -> bytes:
    stored = {
        "version": ENTRY_VERSION,
        "identity": KEY.identity,
        "generation": GENERATION,
        "fetched_s": NOW_S,
        "expires_s": NOW_S + 300,
        "upstream_age_s": 0,
        "accept": b"",
        "lines": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
        "body": b"{}",
    }
    return msgspec.msgpack.encode(list({**stored, **changes}.values()))


def test_the_stored_form_is_what_it_is_said_to_be() -> None:
    assert resealed(contents()) == SEALED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        contents(version=ENTRY_VERSION + 1),
        contents(identity=b"somebody else"),
        contents(generation=b"another"),
        contents(body="text"),
        contents(lines=[b"lonely"]),
        contents(further=1),
    ],
)
def test_a_right_tag_alone_makes_no_entry(content: bytes) -> None:
    assert unseal(KEY, GENERATION, resealed(content), SECRET, NOW_S) is None


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "ttl_s"),
    [
        (NOW_S + 1, 101.0, 299),
        # The wall clock was set back, ahead, or is behind that of the replica that fetched it.
        (NOW_S - 3_600, 396.0, 4),
        (NOW_S + 400, 101.0, -100),
        (NOW_S - 3, 100.0, 300),
    ],
)
def test_an_entry_lives_by_the_clock_that_is_further(wall_s: float, monotonic_s: float, ttl_s: int) -> None:
    for began_s in (NOW_S, NOW_S - 3):
        entry = ENTRY.taken_in(began_s, 100.0)
        assert unseal(KEY, GENERATION, SEALED, SECRET, began_s, monotonic_s=100.0) == entry
        assert entry.ttl_s(entry.now_s(wall_s, monotonic_s)) == ttl_s
    assert ENTRY.ttl_s(ENTRY.now_s(wall_s, monotonic_s)) == NOW_S + 300 - wall_s


@pytest.mark.parametrize(
    ("upstream_age_s", "passed_s", "age_s"),
    [(0, 0.0, 0), (0, 0.9, 0), (0, 1.0, 1), (7, 2.5, 9), (7, -3.0, 7)],
)
def test_the_age_is_whole_seconds_with_the_upstreams_own_and_never_negative(
    upstream_age_s: int, passed_s: float, age_s: int
) -> None:
    entry = msgspec.structs.replace(ENTRY, upstream_age_s=upstream_age_s)
    assert entry.age_s(NOW_S + passed_s) == age_s
