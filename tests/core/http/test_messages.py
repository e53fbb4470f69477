"""Field lists and how they are read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.messages import Head, IndexedFields, first, members, names, values
from tests.core.kit import BOUNDED, NOW_S, request

FIELDS = ((b"Accept", b"a"), (b"X-One", b"1"), (b"accept", b"b, c"))


def test_values_come_in_order_whatever_their_case() -> None:
    assert values(FIELDS, b"accept") == [b"a", b"b, c"]
    assert values(FIELDS, b"absent") == []


def test_the_first_value_is_the_first_line() -> None:
    assert first(FIELDS, b"accept") == b"a"


def test_an_absent_field_is_none_and_an_empty_one_is_not() -> None:
    assert first(FIELDS, b"absent") is None
    assert first(((b"X-One", b""),), b"x-one") == b""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b" , ,"], []),
        ([b"a"], [b"a"]),
        ([b"a,b", b" c ,\td"], [b"a", b"b", b"c", b"d"]),
    ],
)
def test_members_are_collected_over_all_lines(lines: list[bytes], expected: list[bytes]) -> None:
    assert members([(b"Vary", line) for line in lines], b"vary") == expected


@BOUNDED
@given(st.lists(st.binary(max_size=30), max_size=4))
def test_a_member_never_holds_a_comma_or_outer_blanks(lines: list[bytes]) -> None:
    for member in members([(b"Vary", line) for line in lines], b"vary"):
        assert member
        assert b"," not in member
        assert member == member.strip(b" \t")


@pytest.mark.parametrize("value", [Head(200, b"OK", ()), request()])
def test_values_between_layers_are_frozen(value: msgspec.Struct) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        setattr(value, value.__struct_fields__[0], NOW_S)


@given(st.lists(st.tuples(st.sampled_from([b"A", b"a", b"B-c", b"b-C"]), st.binary(max_size=3)), max_size=6))
def test_an_index_changes_nothing_but_the_cost(fields: list[tuple[bytes, bytes]]) -> None:
    plain, indexed = tuple(fields), IndexedFields(fields)
    assert indexed == plain
    for name in (b"a", b"b-c", b"d"):
        assert list(values(indexed, name)) == list(values(plain, name))
        assert first(indexed, name) == first(plain, name)
        assert members(indexed, name) == members(plain, name)
    assert set(names(indexed)) == set(names(plain))


def test_joined_lines_are_indexed_on_first_use_and_have_nothing_else() -> None:
    joined = IndexedFields.joined(FIELDS[:1], (b"X-New", b"2"), FIELDS[1:])
    assert tuple(joined) == (FIELDS[0], (b"X-New", b"2"), *FIELDS[1:])
    assert joined.by_name == IndexedFields(joined).by_name
    assert not hasattr(joined, "by_value")
