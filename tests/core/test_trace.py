"""The trace a request belongs to."""

import pytest

from gateway.core.trace import Parent, parent, parent_in

_TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
_GIVEN = b"00-" + _TRACE + b"-00f067aa0ba902b7-01"


def _head(*values: bytes, name: bytes = b"traceparent") -> bytes:
    lines = b"".join(b"%b: %b\r\n" % (name, value) for value in values)
    return b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"Accept: */*\r\n\r\n"


@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TRACEPARENT"])
def test_a_valid_one_is_read_parsed_or_not(name: bytes) -> None:
    told = Parent(_TRACE, b"00f067aa0ba902b7", is_sampled=True)
    assert parent(((name, _GIVEN),)) == told
    assert parent_in(_head(_GIVEN, name=name)) == told


def test_a_caller_may_say_that_it_records_nothing() -> None:
    told = parent(((b"traceparent", _GIVEN[:-2] + b"02"),))
    assert told is not None
    assert not told.is_sampled


@pytest.mark.parametrize(
    "values",
    [
        (),
        (_GIVEN, _GIVEN),
        (b"",),
        (b"ff" + _GIVEN[2:],),
        (_GIVEN.upper(),),
        (_GIVEN + b"-more",),
        (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",),
        (b"00-" + _TRACE + b"-" + b"0" * 16 + b"-01",),
        (b"00-<script>-1-01",),
    ],
)
def test_anything_else_is_none(values: tuple[bytes, ...]) -> None:
    assert parent(tuple((b"traceparent", value) for value in values)) is None
    assert parent_in(_head(*values)) is None
