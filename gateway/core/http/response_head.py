"""Response heads, read strictly (RFC 9112 §4, §5), and what those of one server have in common."""

import re
import string
from collections.abc import Sequence

import msgspec

from gateway.core.http.fields import end_to_end, nominated
from gateway.core.http.messages import Fields, Head, IndexedFields, field_lines, members, values

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

# What differs between two heads that are equal otherwise, with values that need no check of their own.
_VARYING_NAMES = frozenset({b"date", b"x-request-id", _LENGTH})
_VARYING = re.compile(rb"(\r\n(?i:Date|X-Request-Id|Content-Length): )([!-~]++(?: [!-~]++)*+)(?=\r\n)")
_WITHOUT_LENGTH = frozenset({*range(200), 204})
_KNOWN_MOST = 64
_TEMPLATE_BYTES = 4_096


class ResponseError(Exception):
    """The bytes are not a response that can be read in one way only.

    Attributes:
        proxy_error: its ``Proxy-Status`` error type (RFC 9209 §2.3).
    """

    def __init__(self, proxy_error: str) -> None:
        super().__init__(proxy_error)
        self.proxy_error = proxy_error


class HeadTemplate:
    """Heads that differ in some values alone: status, fields, and what follows from them.

    Args:
        status: of all of them.
        reason: of all of them.
        fields: of one of them.
        places: the indexes in it of the lines whose values differ.

    Attributes:
        fields: of one of them.
        lines: status line and field lines, each with CRLF, to be formatted with the values that differ.
    """

    __slots__ = ("_end_to_end", "_places", "fields", "lines", "reason", "status")

    def __init__(
        self, status: int, reason: bytes, fields: IndexedFields, places: tuple[int, ...] = ()
    ) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self._places = places
        self._end_to_end: HeadTemplate | None = None
        lines = Head(status, reason, fields).lines().replace(b"%", b"%%").split(b"\r\n")
        for place in places:
            lines[1 + place] = fields[place][0] + b": %b"
        self.lines = b"\r\n".join(lines)

    def fields_of(self, values: Sequence[bytes]) -> IndexedFields:
        """Return the fields of the head with these values."""
        if not values:
            return self.fields
        fields = list(self.fields)
        for place, value in zip(self._places, values, strict=True):
            fields[place] = fields[place][0], value
        return IndexedFields(fields)

    def end_to_end(self) -> "HeadTemplate":
        """Return the same without hop-by-hop fields, for the same values."""
        if self._end_to_end is None:
            fields = end_to_end(self.fields)
            assert isinstance(fields, IndexedFields)
            places = tuple(fields.index(self.fields[place]) for place in self._places)
            self._end_to_end = HeadTemplate(self.status, self.reason, fields, places)
        return self._end_to_end


class ReceivedHead(Head):
    """A head of the upstream, whose fields are made only when somebody looks at them.

    Args:
        template: what it has in common with others.
        values: those that differ.
        added: further fields.
    """

    __slots__ = ("_added", "_template", "_values")

    def __init__(self, template: HeadTemplate, values: tuple[bytes, ...], added: Fields = ()) -> None:
        self.status = template.status
        self.reason = template.reason
        self._fields: Fields | None = None
        self._template = template
        self._values = values
        self._added = added

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            fields = self._template.fields_of(self._values)
            self._fields = IndexedFields((*fields, *self._added)) if self._added else fields
        return self._fields

    def has_any(self, lower_names: frozenset[bytes]) -> bool:
        if not lower_names.isdisjoint(self._template.fields.by_name):
            return True
        return bool(self._added) and any(name.lower() in lower_names for name, _ in self._added)

    def lines(self) -> bytes:
        lines = self._template.lines % self._values
        return lines + field_lines(self._added) if self._added else lines

    def with_fields(self, added: Fields) -> Head:
        return ReceivedHead(self._template, self._values, (*self._added, *added))

    def sent_on(self) -> Head:
        """Return the same without hop-by-hop fields."""
        return ReceivedHead(self._template.end_to_end(), self._values, self._added)


def sent_on(head: Head) -> Head:
    """Return a head without its hop-by-hop fields (RFC 9110 §7.6.1)."""
    if isinstance(head, ReceivedHead):
        return head.sent_on()
    return Head(head.status, head.reason, end_to_end(head.fields))


class HeadFraming(msgspec.Struct, frozen=True, gc=False):
    """What a head says about the end of its message, and what may follow.

    Attributes:
        length: Content-Length in bytes; ``None`` without one.
        is_chunked: the body comes in chunks.
        is_persistent: the connection may carry another exchange (RFC 9112 §9.3).
    """

    length: int | None
    is_chunked: bool
    is_persistent: bool


class HeadReader:
    """Reads heads; most are like one before, and then only what differs is looked at."""

    def __init__(self) -> None:
        # By all that does not differ; with the place of the length among the values, None when it is fixed.
        self._known: dict[tuple[bytes, ...], tuple[HeadTemplate, HeadFraming, int | None]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def read(self, raw: bytes) -> tuple[Head, HeadFraming]:
        """Return a whole head, and how its message ends.

        Raises:
            ResponseError: it is malformed, or the body could end in two places.
        """
        parts = _VARYING.split(raw)
        values = tuple(parts[2::3])
        del parts[2::3]
        known = self._known.get(tuple(parts))
        if known is None or len(raw) > MAX_HEAD_BYTES:
            return self._read_new(raw, tuple(parts), values)
        template, framing, length_place = known
        if length_place is not None:
            length = _length(values[length_place])
            framing = HeadFraming(length, framing.is_chunked, framing.is_persistent)
        return ReceivedHead(template, values), framing

    def _read_new(
        self, raw: bytes, same: tuple[bytes, ...], values: tuple[bytes, ...]
    ) -> tuple[Head, HeadFraming]:
        status, reason, fields = _split(raw)
        head, framing = Head(status, reason, fields), _framing(raw, status, fields)
        places = [place for place, (name, _) in enumerate(fields) if name.lower() in _VARYING_NAMES]
        differing = [fields[place][0].lower() for place in places]
        if (
            len(raw) <= _TEMPLATE_BYTES
            # One line of each name, which is sent on, and a length that means the same whatever it is.
            and len(set(differing)) == len(values) == len(places)
            and nominated(fields).isdisjoint(differing)
            and status not in _WITHOUT_LENGTH
        ):
            if len(self._known) >= _KNOWN_MOST:
                del self._known[next(iter(self._known))]
            length_place = differing.index(_LENGTH) if _LENGTH in differing else None
            template = HeadTemplate(status, reason, fields, tuple(places))
            self._known[same] = template, framing, length_place
            head = ReceivedHead(template, values)
        return head, framing


def _split(raw: bytes) -> tuple[int, bytes, IndexedFields]:
    """Return status, reason and fields of a whole head.

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
    return int(raw[STATUS]), status_line[STATUS.stop + 1 :], fields


def _framing(raw: bytes, status: int, fields: IndexedFields) -> HeadFraming:
    """Return how the message of a sound head ends (RFC 9112 §6).

    Raises:
        ResponseError: the body could end in two places.
    """
    is_http_10 = raw.startswith(b"HTTP/1.0")
    is_persistent = not is_http_10
    if status < 200:
        return HeadFraming(None, is_chunked=False, is_persistent=False)
    if b"connection" in fields.by_name:
        options = [option.lower() for option in members(fields, b"connection")]
        is_persistent = b"keep-alive" in options if is_http_10 else b"close" not in options
    lengths, codings = values(fields, _LENGTH), values(fields, b"transfer-encoding")
    if len(lengths) > 1 or (codings and (lengths or is_http_10)):
        raise ResponseError("http_protocol_error")
    length = _length(lengths[0]) if lengths else None
    if status == 204 and (codings or length):
        raise ResponseError("http_protocol_error")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise ResponseError("http_response_transfer_coding")
    return HeadFraming(length, bool(codings), is_persistent)


def _length(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _LENGTH_DIGITS:
        raise ResponseError("http_protocol_error")
    return int(digits)
