"""``Prefer: wait`` (RFC 7240)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.prefer import wait_s


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        ([b"wait=10"], 10),
        ([b"Wait=10"], 10),
        ([b"wait = 10"], 10),
        ([b'wait="10"'], 10),
        ([b"wait=0"], 0),
        ([b"wait=010"], 10),
        ([b"respond-async, wait=10"], 10),
        ([b"return=minimal; a=b; c, wait=10"], 10),
        ([b'x="a, wait=1", wait=2'], 2),
        ([b'x="\\", wait=1", wait=2'], 2),
        ([b"respond-async", b"wait=3"], 3),
        # The first of several counts, also when it is malformed.
        ([b"wait=1, wait=2"], 1),
        ([b"wait=1", b"wait=2"], 1),
        ([b"wait=x, wait=2"], None),
        ([b"wait, wait=2"], None),
        ([b"wait=-1"], None),
        ([b"wait=1.5"], None),
        ([b"wait=1 2"], None),
        ([b"waiting=1"], None),
        ([b"wait=\xb2"], None),
        ([b"a=;, wait=1"], None),
        ([b'a="b, wait=1'], None),
        ([b""], None),
        ([b",, ,wait=1"], 1),
        ([b"wait=999999999999"], 10**9),
        ([b"wait=" + b"9" * 1000], None),
    ],
)
def test_the_wait_that_is_asked_for(lines: list[bytes], expected: int | None) -> None:
    assert wait_s(tuple((b"Prefer", line) for line in lines)) == expected


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_no_value_makes_it_fail(lines: list[bytes]) -> None:
    found = wait_s(tuple((b"prefer", line) for line in lines))
    assert found is None or (found >= 0 and re.search(rb"wait", b" ".join(lines), re.IGNORECASE))


def test_long_values_take_time_in_proportion() -> None:
    for piece in (b"a;", b"a=b;", b'"', b"\\", b" ", b",", b'a="'):
        wait_s(((b"Prefer", piece * 30_000),))
