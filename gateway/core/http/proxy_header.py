"""The header that names the caller at the start of a proxied connection (PROXY protocol, versions 1 and 2).

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

import enum
import re

import msgspec

from gateway.core.http.forwarded import UNKNOWN, address_in

MOST_READ_BYTES = 232
"""The most bytes of a header that are read: version 2 with two paths; the rest of it is skipped."""

_V1_START = b"PROXY "
_V1_MOST_BYTES = 107
_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1_ADDRESSES = re.compile(
    rb"(?:TCP4 ([0-9.]+) ([0-9.]+)|TCP6 ([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*) ([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*))"
    rb" (" + _PORT + rb") (" + _PORT + rb")"
)
_MAX_PORT = 65_535

_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_STREAM, _DATAGRAM = 1, 2
# Source and destination of each family: addresses and ports, or two paths.
_V2_ADDRESS_BYTES = {_UNSPECIFIED: 0, _INET: 12, _INET6: 36, _UNIX: 216}


class Unfit(enum.Enum):
    """Why a connection is closed before its first request."""

    MISSING = "missing"
    MALFORMED = "malformed"
    # Not visible in the bytes alone.
    LATE = "late"
    ENDED = "ended"
    UNTRUSTED = "untrusted"


class BadProxyHeader(Exception):
    """The connection does not begin with a valid header.

    Attributes:
        why: `Unfit.MISSING` when there is no header, `Unfit.MALFORMED` when it is invalid.
    """

    def __init__(self, why: Unfit) -> None:
        super().__init__(why.value)
        self.why = why


class ProxyHeader(msgspec.Struct, frozen=True):
    """The content of a header.

    Attributes:
        length: of the whole header, bytes.
        source: the original peer: an address without port, or `UNKNOWN` for a Unix socket; ``None`` when the
            peer is whoever opened the connection.
    """

    length: int
    source: str | None = None


def proxy_header(data: bytes) -> ProxyHeader | None:
    """Parse the header at the start of a connection.

    Args:
        data: the connection's first bytes; more than the header is allowed.

    Returns:
        ``None`` while more bytes are needed, which is never the case from `MOST_READ_BYTES` on. A version 2
        header is returned before what follows its addresses has arrived.

    Raises:
        BadProxyHeader: no further bytes can make it valid.
    """
    if data.startswith(_V1_START):
        return _version_1(data)
    if data.startswith(_V2_START):
        return _version_2(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise BadProxyHeader(Unfit.MISSING)


def _version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_MOST_BYTES)
    if end < 0:
        if len(data) >= _V1_MOST_BYTES:
            raise BadProxyHeader(Unfit.MALFORMED)
        return None
    line, length = data[len(_V1_START) : end], end + 2
    if line == b"UNKNOWN" or line.startswith(b"UNKNOWN "):
        # The rest of the line must be ignored.
        return ProxyHeader(length)
    match = _V1_ADDRESSES.fullmatch(line)
    if match is None or max(int(match[5]), int(match[6])) > _MAX_PORT:
        raise BadProxyHeader(Unfit.MALFORMED)
    source, destination = (
        address_in(text.decode("ascii")) for text in match.groups()[:4] if text is not None
    )
    if source is None or destination is None:
        raise BadProxyHeader(Unfit.MALFORMED)
    return ProxyHeader(length, str(source))


def _version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    command, kind = data[12], data[13]
    rest_bytes = int.from_bytes(data[14:16], "big")
    length = _V2_FIXED_BYTES + rest_bytes
    if command == _V2_LOCAL:
        # The proxy's own connection, such as a health check: its addresses must be ignored.
        return ProxyHeader(length)
    family, transport = divmod(kind, 16)
    address_bytes = _V2_ADDRESS_BYTES.get(family)
    if command != _V2_PROXY or address_bytes is None or transport > _DATAGRAM or rest_bytes < address_bytes:
        raise BadProxyHeader(Unfit.MALFORMED)
    if family == _UNSPECIFIED or transport < _STREAM:
        return ProxyHeader(length)
    if len(data) < _V2_FIXED_BYTES + address_bytes:
        return None
    if family == _UNIX:
        return ProxyHeader(length, UNKNOWN)
    source = address_in(data[16 : 16 + (4 if family == _INET else 16)])
    assert source is not None
    return ProxyHeader(length, str(source))
