"""The forms of a request target, and which requests may write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.target import is_write, origin_form
from tests.core.kit import BOUNDED


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", (b"/", None)),
        (b"/v2/stacks?", (b"/v2/stacks?", None)),
        (b"/%zz//..;x\\", (b"/%zz//..;x\\", None)),
        (b"http://h", (b"/", b"h")),
        (b"HTTPS://h:8?q", (b"/?q", b"h:8")),
        (b"http://h/a?b", (b"/a?b", b"h")),
        (b"http:///a", None),
        (b"ftp://h/", None),
        (b"*", None),
        (b"h:443", None),
        (b"/a#b", None),
        (b"http://h/a#b", None),
        (b"/\x7f", None),
        (b"/\xe4", None),
        (b"", None),
    ],
)
def test_only_origin_and_absolute_form_are_understood(
    target: bytes, expected: tuple[bytes, bytes | None] | None
) -> None:
    assert origin_form("GET", target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"*", (b"*", None)),
        (b"http://h", (b"*", b"h")),
        (b"http://h/", (b"/", b"h")),
        (b"http://h?q", (b"/?q", b"h")),
        (b"**", None),
    ],
)
def test_options_may_be_about_the_whole_server(
    target: bytes, expected: tuple[bytes, bytes | None] | None
) -> None:
    assert origin_form("OPTIONS", target) == expected


@BOUNDED
@given(st.sampled_from(["GET", "OPTIONS"]), st.binary(max_size=60))
def test_no_target_makes_the_reader_fail(method: str, target: bytes) -> None:
    origin_form(method, target)


@pytest.mark.parametrize(
    ("method", "names", "expected"),
    [
        ("GET", set(), False),
        ("HEAD", set(), False),
        ("OPTIONS", {b"x-auth-token"}, False),
        ("PUT", set(), True),
        ("POST", set(), True),
        ("DELETE", set(), True),
        ("PATCH", set(), True),
        ("get", set(), True),
        ("FROB", set(), True),
        ("GET", {b"x-http-method-override"}, True),
        ("GET", {b"x-http-method"}, True),
        ("HEAD", {b"x-method-override"}, True),
        ("GET", {b"x_http_method_override"}, True),
    ],
)
def test_a_write_is_any_other_method_or_a_method_override(
    method: str, names: set[bytes], expected: bool
) -> None:
    assert is_write(method, frozenset(names)) is expected
