"""Response heads, read strictly (RFC 9112 §4, §5), and what those of one server have in common."""

import functools
import itertools
import operator
import re
import string
from collections.abc import Callable

import msgspec

from gateway.core.http.fields import end_to_end, nominated
from gateway.core.http.messages import Field, Fields, Head, IndexedFields, names, values

MAX_HEAD_BYTES = 65_536
_MAX_FIELDS = 256
HEAD_END = b"\r\n\r\n"
STATUS = slice(9, 12)
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}(?: .*)?")
# What may stand in a line (RFC 9112 §4, RFC 9110 §5.5), and in a name (§5.6.2).
_TEXT = bytes({*range(0x20, 0x100), 0x09} - {0x7F})
_TOKEN = b"!#$%&'*+-.^_`|~" + string.digits.encode() + string.ascii_letters.encode()
_LENGTH_DIGITS = 18
_LENGTH = b"content-length"

# What differs between the heads of one server, with values of characters that need no check.
_VARYING_NAMES = frozenset({b"date", b"x-request-id", _LENGTH})
_VALUE = rb"[!-~][ -~]*+(?<! )"
_VARYING = re.compile(rb"(\r\n(?i:Date|X-Request-Id|Content-Length): )(%b)(?=\r\n)" % _VALUE)
# All visible characters are of one kind.
_KINDS = bytes(0x21 if 0x20 < byte < 0x7F else byte for byte in range(256))
# Their Content-Length is no length of theirs.
_WITHOUT_LENGTH = frozenset({*range(200), 204, 304})
_KNOWN_MOST = 64
_KNOWN_BYTES = 4_096


class ResponseError(Exception):
    """The bytes are not a response that can be read in one way only.

    Attributes:
        proxy_error: its ``Proxy-Status`` error type (RFC 9209 §2.3).
    """

    def __init__(self, proxy_error: str) -> None:
        super().__init__(proxy_error)
        self.proxy_error = proxy_error


Framing = tuple[int | None, bool, bool]
"""Content-Length, whether the body comes in chunks, whether the connection persists (RFC 9112 §6, §9.3)."""

_Known = tuple["HeadTemplate", Framing, int | None]
"""What heads have in common: with the framing of one of them, and which of the values is the length."""


class HeadTemplate:
    """Heads that are equal but for the values of some fields.

    Attributes:
        status: their status code.
        reason: their reason phrase.
        fields: those of one of them.
        places: the indexes of those fields in it.
        names: lower-case names of their fields.
        lines: status line and field lines, each with CRLF, to be formatted with the values.
        sent_on: the same without hop-by-hop fields (RFC 9110 §7.6.1); ``None`` when there is none of them.
    """

    __slots__ = ("fields", "lines", "names", "places", "reason", "sent_on", "status")

    def __init__(self, head: Head, places: list[int]) -> None:
        fields, sent = head.fields, end_to_end(head.fields)
        lines = head.lines().replace(b"%", b"%%").split(b"\r\n")
        for place in places:
            lines[1 + place] = fields[place][0] + b": %b"
        self.status, self.reason, self.fields = head.status, head.reason, fields
        self.places = places
        self.names = frozenset(names(fields))
        self.lines = b"\r\n".join(lines)
        self.sent_on: HeadTemplate | None = None
        if len(sent) < len(fields):
            sent_places = [sent.index(fields[place]) for place in places]
            self.sent_on = HeadTemplate(Head(head.status, head.reason, sent), sent_places)


class ReceivedHead(Head, frozen=True, gc=False):
    """A head of the upstream, whose fields are made only when somebody looks at them.

    Attributes:
        template: what it has in common with others.
        values: what it has not.
        added: further field lines, each with CRLF.
    """

    template: HeadTemplate
    values: tuple[bytes, ...]
    added: bytes = b""

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            fields = [*self.template.fields, *_fields_of(self.added)]
            for place, value in zip(self.template.places, self.values, strict=True):
                fields[place] = fields[place][0], value
            msgspec.structs.force_setattr(self, "_fields", IndexedFields(fields))
        return super().fields

    def has_any(self, lower_names: frozenset[bytes]) -> bool:
        if not lower_names.isdisjoint(self.template.names):
            return True
        return bool(self.added) and any(name.lower() in lower_names for name, _ in _fields_of(self.added))

    def lines(self) -> bytes:
        return self.template.lines % self.values + self.added


def sent_on(head: Head, added: bytes) -> Head:
    """Return a received head without its hop-by-hop fields (RFC 9110 §7.6.1), but with other lines."""
    if isinstance(head, ReceivedHead):
        template = head.template.sent_on or head.template
        return ReceivedHead(head.status, head.reason, None, template, head.values, added)
    return Head(head.status, head.reason, (*end_to_end(head.fields), *_fields_of(added)))


def _fields_of(lines: bytes) -> list[Field]:
    """Return fields from the gateway's own lines."""
    return [(name, value) for name, _, value in [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]]


class _Layout(msgspec.Struct, frozen=True, gc=False):
    """Where the values stand in heads that are equal but for values of the same form.

    Attributes:
        values: takes those out of such a head.
        gaps: takes out what stands between them.
        same: that, joined.
        form: the values joined, each character in place of its kind.
        known: what the heads have in common.
        length: the Content-Length that is its framing's; empty without one.
    """

    values: Callable[[bytes], tuple[bytes, ...]]
    gaps: Callable[[bytes], tuple[bytes, ...]]
    same: bytes
    form: bytes
    known: _Known
    length: bytes


def _layout(raw: bytes, known: _Known) -> _Layout:
    """Return the layout of a head that has a varying value."""
    found = [match.span(2) for match in _VARYING.finditer(raw)]
    cuts = [0, *itertools.chain.from_iterable(found), len(raw)]
    # Of one slice alone it would not make a tuple.
    values: Callable[[bytes], tuple[bytes, ...]] = operator.itemgetter(*map(slice, cuts[1::2], cuts[2::2]))
    if len(found) == 1:
        values = functools.partial(_only, slice(*found[0]))
    gaps = operator.itemgetter(*map(slice, cuts[::2], cuts[1::2]))
    form, place = b"\n".join(values(raw)).translate(_KINDS), known[2]
    length = b"" if place is None else values(raw)[place]
    return _Layout(values, gaps, b"".join(gaps(raw)), form, known, length)


def _only(place: slice, data: bytes) -> tuple[bytes, ...]:
    return (data[place],)


def _received(known: _Known, values: tuple[bytes, ...]) -> tuple[Head, Framing]:
    """Return a head that is known but for these values."""
    template, framing, place = known
    if place is not None and (length := _length(values[place])) != framing[0]:
        framing = (length, *framing[1:])
    return ReceivedHead(template.status, template.reason, None, template, values), framing


class HeadReader:
    """Reads heads; of one that is like others before, only what differs is looked at."""

    def __init__(self) -> None:
        # By all that does not differ, oldest first; None for what has been seen once.
        self._known: dict[tuple[bytes, ...], _Known | None] = {}
        # The latest of each size.
        self._layouts: dict[int, _Layout] = {}

    def read(self, raw: bytes) -> tuple[Head, Framing]:
        """Return a whole head, and how its message ends.

        Raises:
            ResponseError: it is malformed, or the body could end in two places.
        """
        received = self._latest(raw, len(raw))
        if received is not None:
            return received
        parts = _VARYING.split(raw)
        values = tuple(parts[2::3])
        del parts[2::3]
        same = tuple(parts)
        known = self._known.get(same)
        if known is None or len(raw) > MAX_HEAD_BYTES:
            return self._read_whole(raw, same, len(values))
        head, framing = _received(known, values)
        if values and len(raw) <= _KNOWN_BYTES:
            if len(self._layouts) >= _KNOWN_MOST:
                self._layouts.clear()
            template, _, place = known
            self._layouts[len(raw)] = _layout(raw, (template, framing, place))
        return head, framing

    def whole(self, data: bytes) -> tuple[Head, bytes, bool] | None:
        """Read a response to a GET that has come at once, if the latest head of its size was like its own.

        Returns:
            Its head and body, and whether the connection persists; ``None`` when it is to be read by parts.
        """
        end = data.find(HEAD_END) + len(HEAD_END)
        known = self._latest(data, end)
        if known is None:
            return None
        head, (length, _, is_persistent) = known
        return (head, data[end:], is_persistent) if length == len(data) - end else None

    def _latest(self, data: bytes, end: int) -> tuple[Head, Framing] | None:
        """Return the head before ``end``, with its framing, if the latest of its size was like it."""
        layout = self._layouts.get(end)
        if layout is None:
            return None
        values = layout.values(data)
        if b"".join(layout.gaps(data)) != layout.same or b"\n".join(values).translate(_KINDS) != layout.form:
            return None
        template, framing, place = layout.known
        if place is not None and values[place] != layout.length:
            return _received(layout.known, values)
        return ReceivedHead(template.status, template.reason, None, template, values), framing

    def _read_whole(self, raw: bytes, same: tuple[bytes, ...], differing: int) -> tuple[Head, Framing]:
        head, fields = _split(raw)
        framing = _framing(raw, head.status, fields)
        # A cookie is somebody's own: it neither comes again nor is to be kept.
        if len(raw) > _KNOWN_BYTES or b"set-cookie" in fields.by_name:
            return head, framing
        if same not in self._known:
            if len(self._known) >= _KNOWN_MOST:
                del self._known[next(iter(self._known))]
            self._known[same] = None
            return head, framing
        places = [place for place, (name, _) in enumerate(fields) if name.lower() in _VARYING_NAMES]
        lower_names = [fields[place][0].lower() for place in places]
        if (
            # One line of each name, which is sent on, and a length that is sound whatever it is.
            len(set(lower_names)) == len(places) == differing
            and nominated(fields).isdisjoint(lower_names)
            and head.status not in _WITHOUT_LENGTH
        ):
            length_place = lower_names.index(_LENGTH) if _LENGTH in lower_names else None
            self._known[same] = HeadTemplate(head, places), framing, length_place
        return head, framing


def _split(raw: bytes) -> tuple[Head, IndexedFields]:
    """Return a head and its fields, read strictly.

    Raises:
        ResponseError: it is malformed.
    """
    status_line, *lines = raw[: -len(HEAD_END)].split(b"\r\n")
    try:
        fields = IndexedFields(
            [(name, value.strip(b" \t")) for name, value in [line.split(b":", 1) for line in lines]]
        )
    except ValueError:
        raise ResponseError("http_protocol_error") from None
    if (
        len(raw) > MAX_HEAD_BYTES
        or len(lines) > _MAX_FIELDS
        or _STATUS_LINE.fullmatch(status_line) is None
        # Nothing but whole lines: no bare CR or LF (RFC 9112 §2.2), no folding (§5.2).
        or raw.translate(None, _TEXT) != b"\r\n" * (len(lines) + 2)
        or b"".join(fields.by_name).translate(None, _TOKEN)
        or b"" in fields.by_name
    ):
        raise ResponseError("http_protocol_error")
    return Head(int(raw[STATUS]), status_line[STATUS.stop + 1 :], fields), fields


def _framing(raw: bytes, status: int, fields: IndexedFields) -> Framing:
    """Return how the message of a sound head ends (RFC 9112 §6).

    Raises:
        ResponseError: the body could end in two places.
    """
    if status < 200:
        return None, False, False
    is_http_10 = raw.startswith(b"HTTP/1.0")
    options = nominated(fields)
    is_persistent = b"keep-alive" in options if is_http_10 else b"close" not in options
    lengths, codings = values(fields, _LENGTH), values(fields, b"transfer-encoding")
    length = _length(lengths[0]) if lengths else None
    if len(lengths) > 1 or (codings and (lengths or is_http_10)) or (status == 204 and (codings or length)):
        raise ResponseError("http_protocol_error")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise ResponseError("http_response_transfer_coding")
    return length, bool(codings), is_persistent


def _length(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _LENGTH_DIGITS:
        raise ResponseError("http_protocol_error")
    return int(digits)
