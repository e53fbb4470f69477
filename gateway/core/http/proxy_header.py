"""The header with which a proxy begins a connection, to tell for whom it was opened (PROXY protocol 1 and 2).

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import enum
import re

import msgspec

from gateway.core.http.forwarded import address_in

MOST_READ_BYTES = 232
"""How many bytes of a header are needed at most: version 2 with two paths; what follows them is skipped."""

_V1_START = b"PROXY "
_V1_MOST_BYTES = 107
_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1_TOLD = re.compile(
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
    # What the bytes alone cannot tell.
    LATE = "late"
    ENDED = "ended"
    UNTRUSTED = "untrusted"


class BadProxyHeader(Exception):
    """The connection does not begin with a header.

    Attributes:
        why: `Unfit.MISSING` when it begins with something else, else `Unfit.MALFORMED`.
    """

    def __init__(self, why: Unfit) -> None:
        super().__init__(why.value)
        self.why = why


class ProxyHeader(msgspec.Struct, frozen=True):
    """What a header says.

    Attributes:
        length: of the whole header, bytes.
        is_told: it names for whom the connection was opened; otherwise that is who has opened it.
        address: the address that is told, without port; ``None`` for a Unix socket.
    """

    length: int
    is_told: bool = False
    address: str | None = None


def proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header that a connection begins with.

    Args:
        data: the connection's first bytes, whatever follows the header included.

    Returns:
        ``None`` while more bytes are needed, never from `MOST_READ_BYTES` on. What follows the addresses in a
        header of version 2 may still be missing.

    Raises:
        BadProxyHeader: no bytes that follow can make it valid.
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
        # Whatever stands behind it is to be ignored.
        return ProxyHeader(length)
    told = _V1_TOLD.fullmatch(line)
    if told is None or max(int(told[5]), int(told[6])) > _MAX_PORT:
        raise BadProxyHeader(Unfit.MALFORMED)
    source, destination = (address_in(text.decode("ascii")) for text in told.groups()[:4] if text is not None)
    if source is None or destination is None:
        raise BadProxyHeader(Unfit.MALFORMED)
    return ProxyHeader(length, is_told=True, address=str(source))


def _version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    command, kind = data[12], data[13]
    rest_bytes = int.from_bytes(data[14:16], "big")
    length = _V2_FIXED_BYTES + rest_bytes
    if command == _V2_LOCAL:
        # A health check of the proxy's own; what it says of addresses is to be ignored.
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
        return ProxyHeader(length, is_told=True)
    source = address_in(data[16 : 16 + (4 if family == _INET else 16)])
    assert source is not None
    return ProxyHeader(length, is_told=True, address=str(source))
