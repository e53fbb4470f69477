"""Where a connection comes from, and who asks over it: as the socket, or proxies in between, tell it."""

import asyncio
import socket

import msgspec

from gateway.core.http.forwarded import UNIX, UNKNOWN, TrustedProxies, address_in, forwarded_for
from gateway.core.http.messages import Fields
from gateway.core.http.proxy_header import ProxyHeader


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Who has opened a connection, to the gateway or to the proxy that names it in a PROXY protocol header.

    Attributes:
        name: an address without port, `UNIX` or `UNKNOWN`.
        trusted: set when it is one of these, so that its ``X-Forwarded-For`` counts.
    """

    name: str = UNKNOWN
    trusted: TrustedProxies | None = None

    @property
    def address(self) -> str | None:
        """Its address without port; ``None`` when it has none."""
        return None if self.name in {UNIX, UNKNOWN} else self.name

    @property
    def peer(self) -> bytes:
        """The same for fields; ``unknown`` when it has none."""
        return (self.address or UNKNOWN).encode("ascii", "replace")

    def caller_address(self, head: Fields | bytes) -> bytes:
        """Return the `name` of who asks: its own, or the one that it tells as a trusted proxy."""
        caller = self.name if self.trusted is None else self.trusted.caller(self.name, forwarded_for(head))
        return caller.encode("ascii", "replace")


def origin_of(
    transport: asyncio.BaseTransport, header: ProxyHeader | None, trusted: TrustedProxies
) -> Origin:
    """Return where a connection comes from; ``header`` is ``None`` when nothing was to come before HTTP."""
    name = header.source if header is not None else None
    if name is None:
        name = peer_of(transport.get_extra_info("socket"), transport.get_extra_info("peername"))
    return Origin(name, trusted if trusted and trusted.has(name) else None)


def peer_of(connected: socket.socket | None, peername: object) -> str:
    """Return an address without port, `UNIX`, or `UNKNOWN` when the other side has left already."""
    if isinstance(peername, tuple):
        host = str(peername[0])
        return str(address_in(host) or host) if host.startswith("::ffff:") else host
    return UNIX if connected is not None and connected.family == socket.AF_UNIX else UNKNOWN
