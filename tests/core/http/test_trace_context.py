"""The trace a request belongs to."""

import pytest

from gateway.core.http.trace_context import Parent, continued, parent, state

_TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
_GIVEN = b"00-" + _TRACE + b"-00f067aa0ba902b7-01"


def _head(*values: bytes, name: bytes = b"traceparent") -> bytes:
    lines = b"".join(b"%b: %b\r\n" % (name, value) for value in values)
    return b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"Accept: */*\r\n\r\n"


@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TRACEPARENT"])
def test_a_valid_one_is_read_parsed_or_not(name: bytes) -> None:
    expected = Parent(_TRACE, b"00f067aa0ba902b7", flags=1)
    assert parent(((name, _GIVEN),)) == expected
    assert parent(_head(_GIVEN, name=name)) == expected


def test_a_caller_may_say_that_it_records_nothing() -> None:
    expected = parent(((b"traceparent", _GIVEN[:-2] + b"fe"),))
    assert expected is not None
    assert expected.flags == 2


def test_a_later_version_may_say_more() -> None:
    for value in (b"01" + _GIVEN[2:] + b"-more", b"cc" + _GIVEN[2:] + b"-", b"01" + _GIVEN[2:]):
        assert parent(((b"traceparent", value),)) == parent(_head(value)) == parent(_head(_GIVEN))


@pytest.mark.parametrize(
    "values",
    [
        (),
        (_GIVEN, _GIVEN),
        (b"",),
        (b"ff" + _GIVEN[2:],),
        (_GIVEN.upper(),),
        (_GIVEN + b"-more",),
        (b"01" + _GIVEN[2:] + b"more",),
        (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",),
        (b"00-" + _TRACE + b"-" + b"0" * 16 + b"-01",),
        (b"00-<script>-1-01",),
    ],
)
def test_anything_else_is_none(values: tuple[bytes, ...]) -> None:
    assert parent(tuple((b"traceparent", value) for value in values)) is None
    assert parent(_head(*values)) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), []),
        ((b"a=1",), [("a", "1")]),
        ((b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", b" 0t@v=x y , ,"), None),
        ((b"a=1,a=2",), []),
        ((b"a=1", b"b"), []),
        ((b"A=1",), []),
        ((b"a=",), []),
        ((b"a=" + b"x" * 257,), []),
        ((b",".join(b"k%d=1" % number for number in range(33)),), []),
    ],
)
def test_a_trace_state_is_read_as_a_whole_or_not_at_all(
    lines: tuple[bytes, ...], expected: list[tuple[str, str]] | None
) -> None:
    if expected is None:
        expected = [("rojo", "00f067aa0ba902b7"), ("congo", "t61rcWkgMzE"), ("0t@v", "x y")]
    assert state(tuple((b"TraceState", line) for line in lines)) == expected
    assert state(_head(*lines, name=b"TraceState")) == expected


_OWN = b"00-" + _TRACE + b"-000000000000000a-03"
_OTHER = (b"Traceparent", b"00-" + b"1" * 32 + b"-2222222222222222-01")
_STATED = (b"Tracestate", b"a=1")
_SIGNED = (b"Authorization", b"SDK-HMAC-SHA256 Access=k, SignedHeaders=host;%b, Signature=s")


def _signed(names: bytes) -> tuple[bytes, bytes]:
    return _SIGNED[0], _SIGNED[1] % names


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), ((b"traceparent", _OWN),)),
        ((_STATED,), ((b"traceparent", _OWN),)),
        (((b"Traceparent", _GIVEN), _STATED), (_STATED, (b"traceparent", _OWN))),
        ((_OTHER, _STATED), ((b"traceparent", _OWN),)),
        (((b"Traceparent", b"nonsense"), _STATED), ((b"traceparent", _OWN),)),
        ((_OTHER, _OTHER), ((b"traceparent", _OWN),)),
        ((_signed(b"x"), _OTHER), (_signed(b"x"), (b"traceparent", _OWN))),
        ((_signed(b"TraceParent"), _OTHER, _STATED), (_signed(b"TraceParent"), _OTHER, _STATED)),
        ((_signed(b"traceparent"),), (_signed(b"traceparent"),)),
        ((_signed(b"tracestate"), _STATED), (_signed(b"tracestate"), _STATED, (b"traceparent", _OWN))),
    ],
)
def test_a_request_that_a_span_sends_names_it_and_what_is_signed_stays(
    before: tuple[tuple[bytes, bytes], ...], after: tuple[tuple[bytes, bytes], ...]
) -> None:
    kept = (b"Host", b"h")
    assert continued((kept, *before), int(_TRACE, 16), 10, 3) == (kept, *after)
