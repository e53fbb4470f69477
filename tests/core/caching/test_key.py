"""Keys: injective, versioned, one hash tag per stack."""

import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.key import ENTRY_VERSION, KeySpace, stack_of, upstream_digest, upstream_identity
from tests.core.kit import BOUNDED

UPSTREAM = upstream_identity("https", "aos.example", 443, "")
SPACE = KeySpace("aosgw", UPSTREAM)

# Small alphabets with the separators of the keys make neighbours likely.
pieces = st.text("ab1:2{}", max_size=6).map(str.encode)
raw_ids = st.text("aA1.~-", min_size=1, max_size=4).map(str.encode)


class Parts(NamedTuple):
    caller: bytes
    variant: bytes
    stack_id: bytes
    action_id: bytes


parts = st.builds(Parts, pieces, pieces, raw_ids, raw_ids)


def call(of: Parts) -> ExecutionRef:
    return ExecutionRef(of.stack_id, of.action_id, has_query=False)


@BOUNDED
@given(parts, parts)
def test_keys_are_equal_only_for_equal_parts(one: Parts, other: Parts) -> None:
    first = SPACE.entry(one.caller, one.variant, call(one))
    second = SPACE.entry(other.caller, other.variant, call(other))
    assert (first.name == second.name) == (one == other)
    assert (first.identity == second.identity) == (one == other)
    assert (first == second) == (one == other)
    assert (len({first, second}) == 1) == (one == other)
    flights = [SPACE.flight(of.caller, of.variant, call(of)) for of in (one, other)]
    assert (flights[0] == flights[1]) == (one == other)


@BOUNDED
@given(parts, st.data())
def test_bytes_that_slide_from_one_part_to_the_next_make_another_key(of: Parts, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, 2))
    joined = of[place] + of[place + 1]
    cut = data.draw(st.integers(0, len(joined)))
    slid = Parts._make([*of[:place], joined[:cut], joined[cut:], *of[place + 2 :]])
    same = (
        SPACE.entry(of.caller, of.variant, call(of)).name
        == SPACE.entry(slid.caller, slid.variant, call(slid)).name
    )
    assert same == (slid == of)


NEIGHBOURS = [
    [(b"a:b", b"c"), (b"a", b"b:c"), (b"a:", b"b:c"), (b"", b"a:b:c")],
    [(b"1:a", b""), (b"", b"1:a"), (b"1", b":a"), (b"1:a0:", b"")],
    [(b"a|b", b""), (b"a", b"|b"), (b"a\x00", b"b"), (b"a", b"\x00b")],
    [(b"shared", b"v"), (b"share", b"dv"), (b"6:shared", b"v")],
]


@pytest.mark.parametrize("pairs", NEIGHBOURS)
def test_separators_and_lengths_inside_a_part_imitate_nothing(pairs: list[tuple[bytes, bytes]]) -> None:
    execution = ExecutionRef(b"s", b"a", has_query=False)
    assert len({SPACE.entry(*pair, execution).name for pair in pairs}) == len(pairs)
    assert len({SPACE.entry(*pair, execution).identity for pair in pairs}) == len(pairs)
    assert len({SPACE.flight(*pair, execution) for pair in pairs}) == len(pairs)
    upstreams = [upstream_identity("http", one.decode(), 80, other.decode()) for one, other in pairs]
    assert len(set(upstreams)) == len(pairs)


def test_keys_look_alike_and_carry_the_version() -> None:
    key = SPACE.entry(b"caller", b"variant", ExecutionRef(b"Stack", b"Action", has_query=False))
    assert re.fullmatch(rb"aosgw:entry%d:\{[0-9a-f]{32}\}:[0-9a-f]{48}" % ENTRY_VERSION, key.name)
    assert re.fullmatch(rb"aosgw:generation:\{[0-9a-f]{32}\}", key.generation)
    assert key.stack == b"stack"


def tag(key: bytes) -> bytes:
    found = re.search(rb"\{[^}]+\}", key)
    assert found
    return found[0]


def test_all_keys_of_a_stack_share_a_hash_tag_whatever_the_case() -> None:
    keys = [
        SPACE.entry(caller, b"v", ExecutionRef(stack, action, has_query=False))
        for caller in (b"one", b"other")
        for stack in (b"abc", b"ABC")
        for action in (b"x", b"y")
    ]
    assert len({key.name for key in keys}) == len(keys)
    assert len({key.generation for key in keys}) == 1
    assert {tag(name) for key in keys for name in (key.name, key.generation)} == {tag(keys[0].name)}
    assert tag(SPACE.generation(b"abd")) != tag(keys[0].name)


def test_the_generation_depends_on_prefix_upstream_and_stack_alone() -> None:
    assert SPACE.generation(b"abc") == KeySpace("aosgw", UPSTREAM).generation(b"abc")
    others = [
        SPACE.generation(b"abd"),
        KeySpace("other", UPSTREAM).generation(b"abc"),
        KeySpace("aosgw", upstream_identity("https", "aos.example", 8443, "")).generation(b"abc"),
    ]
    assert SPACE.generation(b"abc") not in others


def test_two_upstreams_or_prefixes_have_different_invalidation_channels() -> None:
    other = upstream_identity("https", "other.example", 443, "")
    channels = {space.channel for space in (SPACE, KeySpace("aosgw", other), KeySpace("other", UPSTREAM))}
    assert len(channels) == 3


@pytest.mark.parametrize(
    "same",
    [
        ("HTTPS", "aos.example", 443, ""),
        ("https", "AOS.Example", 443, "/"),
        ("https", "aos.example", 443, "//"),
    ],
)
def test_replicas_agree_on_an_upstream_however_it_is_spelled(same: tuple[str, str, int, str]) -> None:
    assert upstream_identity(*same) == UPSTREAM


@pytest.mark.parametrize(
    "other",
    [
        ("http", "aos.example", 443, ""),
        ("https", "aos.example.", 443, ""),
        ("https", "aos.example", 80, ""),
        ("https", "aos.example", 443, "/base"),
        ("https", "aos.example", 443, "/Base"),
    ],
)
def test_another_upstream_has_another_identity(other: tuple[str, str, int, str]) -> None:
    assert upstream_identity(*other) != UPSTREAM
    assert upstream_digest(upstream_identity(*other)) != upstream_digest(UPSTREAM)


def test_an_upstream_has_16_bytes() -> None:
    assert len(upstream_digest(UPSTREAM)) == 16


@BOUNDED
@given(parts, parts)
def test_the_keys_of_this_process_are_equal_only_for_equal_parts(one: Parts, other: Parts) -> None:
    first, second = (SPACE.entry(of.caller, of.variant, call(of)) for of in (one, other))
    assert (first.local == second.local) == (one == other)


def test_a_key_of_this_process_tells_its_stack() -> None:
    key = SPACE.entry(b"alice", b"v", ExecutionRef(b"StAck", b"a", has_query=False))
    assert stack_of(key.local) == key.stack == b"stack"
