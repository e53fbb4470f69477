"""Which target is the execution call, and which stacks a write touches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.aos.route import execution, route_name, stack_key, written_stacks
from tests.core.kit import BOUNDED

ids = st.from_regex(rb"[A-Za-z0-9._~-]{1,64}", fullmatch=True).filter(lambda raw: raw.strip(b"."))


@BOUNDED
@given(ids, ids, st.sampled_from([b"", b"?", b"?last=true"]))
def test_the_execution_call_is_recognised_with_its_raw_ids(stack: bytes, action: bytes, query: bytes) -> None:
    call = execution(b"/v2/stacks/" + stack + b"/actions/" + action + query)
    assert call is not None
    assert (call.stack_id, call.action_id, call.has_query) == (stack, action, bool(query))


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v2/stacks",
        b"/v2/stacks/s",
        b"/v2/stacks/s/actions",
        b"/v2/stacks/s/actions/",
        b"/v2/stacks/s/actions/a/",
        b"/v2/stacks//actions/a",
        b"//v2/stacks/s/actions/a",
        b"/v2.1/stacks/s/actions/a",
        b"/V2/stacks/s/actions/a",
        b"/v2/Stacks/s/actions/a",
        b"/v2/stacks/../actions/a",
        b"/v2/stacks/s/actions/.",
        b"/v2/stacks/s/actions/...",
        b"/v2/stacks/s%2fs/actions/a",
        b"/v2/stacks/s/actions/%61",
        b"/v2/stacks/s;v=1/actions/a",
        b"/v2/stacks/s/actions/a:b",
        b"/v2/stacks/s/actions/" + b"a" * 65,
        b"/v2/stacks/" + b"s" * 65 + b"/actions/a",
        b"/v2/stacks/s/actions/a\n",
    ],
)
def test_anything_else_is_another_call(target: bytes) -> None:
    assert execution(target) is None


@BOUNDED
@given(st.binary(max_size=60))
def test_no_target_makes_the_readers_fail(target: bytes) -> None:
    execution(target)
    written_stacks(target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/v2/stacks", set()),
        (b"/v2/stacks/", set()),
        (b"/v2/templates/abc", set()),
        (b"/v2/stacks?x=/stacks/abc", set()),
        (b"/v2/mystacks/abc", set()),
        (b"/v2/stacks/" + b"a" * 65, set()),
        (b"/v2/stacks/abc", {b"abc"}),
        (b"/v2/stacks/ABC/actions", {b"abc"}),
        (b"/v2/Stacks/abc", {b"abc"}),
        (b"/v9/any/stacks/abc/more", {b"abc"}),
        (b"/v2/stacks/abc?force=true", {b"abc"}),
        (b"/v2/stacks/abc%3Fforce", {b"abc"}),
        (b"/v2/stacks/abc%23x", {b"abc"}),
        (b"/v2/stacks/abc;v=1/actions", {b"abc"}),
        (b"/v2/stacks;v=1/abc", {b"abc"}),
        (b"/v2/stacks/;v=1/abc", {b"abc"}),
        (b"/v2/%73tack%53/%61bc", {b"abc"}),
        (b"/v2/%2573tacks/%252561bc", {b"abc"}),
        (b"/v2%2fstacks%2Fabc", {b"abc"}),
        (b"/v2//stacks///abc", {b"abc"}),
        (b"/v2/stacks/./abc", {b"abc"}),
        (b"/v2/stacks\\abc", {b"abc"}),
        (b"/v2/stacks%5cabc", {b"abc"}),
        (b"/v2/stacks/x/../abc", {b"x", b"abc"}),
        (b"/v2/stacks/x/..;/abc", {b"x", b"abc"}),
        (b"/v2/stacks/stacks/abc", {b"stacks", b"abc"}),
        (b"/v2/stacks/abc/stacks/def", {b"abc", b"def"}),
        # Dots go before slashes are merged, or after it.
        (b"/v2/stacks//../abc", {b"abc"}),
        (b"/v2/stacks//./abc", {b"abc"}),
        # Dots go, then encodings, then dots again.
        (b"/v2/stacks/x/p%2Fr/../%2e%2e/abc", {b"x", b"abc"}),
        (b"/v2/stacks/a%2Fb/../abc", {b"a", b"abc"}),
        # An encoded question mark ends the path for one that decodes first.
        (b"/v2/stacks/x/../abc%3F/../..", {b"x", b"abc"}),
        (b"/v2/stacks/x\\y/../abc", {b"x", b"abc"}),
    ],
)
def test_every_id_behind_stacks_counts_in_any_form(target: bytes, expected: set[bytes]) -> None:
    assert written_stacks(target) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v2/stacks/ABC/%" + b"25" * 2000 + b"2fdef/x", {b"v2", b"stacks", b"abc", b"x"}),
        (b"/v2/%2573tacks/a%5cb;c/%" + b"25" * 2000, {b"v2", b"stacks", b"a", b"b", b"c"}),
        (b"/v2/other/abc/%" + b"25" * 2000, set()),
    ],
)
def test_of_a_path_with_too_many_forms_all_that_looks_like_an_id_counts(
    path: bytes, expected: set[bytes]
) -> None:
    assert written_stacks(path) == expected


@st.composite
def disguised(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A stack id, and a target in which an upstream could find it."""
    stack = draw(ids)
    segments = [
        b"v2",
        b"stacks",
        *draw(st.sampled_from([[], [b"x", b".."], [b"y", b"z", b"..", b".."]])),
        stack,
    ]
    path = b""
    for segment in [*segments, b"actions"]:
        path += b"/" * draw(st.integers(1, 2)) + draw(st.sampled_from([b"", b"./"])) + segment
    encoded = b""
    for byte in path[1:]:
        character = bytes([byte])
        for _ in range(draw(st.integers(-6, 2))):
            character = b"%%%02x" % character[0] + character[1:]
        encoded += character
    if draw(st.booleans()):
        encoded = encoded.upper()
    return stack, b"/" + encoded + draw(st.sampled_from([b"", b"?a=b", b"/"]))


@BOUNDED
@given(disguised())
def test_an_id_is_found_through_encodings_dots_slashes_and_case(hidden: tuple[bytes, bytes]) -> None:
    stack, target = hidden
    assert stack_key(stack) in written_stacks(target)


@BOUNDED
@given(ids, ids)
def test_a_write_to_the_execution_call_names_the_stack_of_the_read(stack: bytes, action: bytes) -> None:
    assert stack_key(stack) in written_stacks(b"/v2/stacks/" + stack + b"/actions/" + action)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/v2/stacks/s/actions/a", "execution"),
        (b"/v2/stacks/s/actions/a?x=1", "execution"),
        (b"/v2/stacks/s/actions", "stack"),
        (b"/v2/stacks", "stack"),
        (b"/v2/stacksx", "other"),
        (b"/v2/templates?a=/v2/stacks/s", "other"),
        (b"*", "other"),
    ],
)
def test_a_call_has_one_of_three_names(target: bytes, name: str) -> None:
    assert route_name(target) == name
