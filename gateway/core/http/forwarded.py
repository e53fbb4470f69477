"""The caller's address behind trusted proxies, from ``X-Forwarded-For``."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Self

import msgspec

from gateway.core.http.messages import Fields, values

UNIX = "unix"
"""The address of a peer on a Unix socket."""
UNKNOWN = "unknown"
"""The address of a peer that has none."""

_FIELD = b"x-forwarded-for"
_LINE = re.compile(rb"\r\n" + _FIELD + rb":([^\r\n]*)(?=\r\n)", re.IGNORECASE)
# A caller inside a trusted network may send any number of elements.
_MOST_HOPS = 32
_ELEMENT = re.compile(
    r"\[(?P<bracketed>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\](?::[0-9]{1,5})?"
    r"|(?P<four>[0-9.]+)(?::[0-9]{1,5})?"
    r"|(?P<six>[0-9A-Fa-f:.]+)"
)
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class TrustedProxies(msgspec.Struct, frozen=True):
    """Proxies whose ``X-Forwarded-For`` is believed.

    Attributes:
        networks: their addresses.
        unix: every peer on a Unix socket is one.
    """

    networks: tuple[_Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Read addresses, networks (see `network_of`) and ``unix``."""
        listed = list(texts)
        return cls(tuple(network_of(text) for text in listed if text != UNIX), UNIX in listed)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix

    def has(self, peer: str) -> bool:
        """Tell whether an address is a trusted proxy's.

        Args:
            peer: without port, or `UNIX`; any other text is no proxy's.
        """
        if peer == UNIX:
            return self.unix
        address = address_in(peer)
        return address is not None and self._has(address)

    def caller(self, peer: str, lines: Iterable[bytes]) -> str:
        """Return the caller's address: the right-most one that is not a trusted proxy's.

        Each proxy appends its own peer, so everything to the right of that address was written by trusted
        proxies.

        Args:
            peer: a trusted proxy, see `has`.
            lines: the values of ``X-Forwarded-For``, in order (see `forwarded_for`).

        Returns:
            An address without port. If all are trusted, or an element is unreadable, the last address that
            was read.
        """
        elements = b",".join(lines).decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]
        for element in reversed(elements):
            text = element.strip(" \t")
            if not text:
                # Empty list elements are ignored (RFC 9110 §5.6.1.2).
                continue
            found = _ELEMENT.fullmatch(text)
            address = None if found is None else address_in(found[found.lastgroup or 0])
            if address is None:
                break
            peer = str(address)
            if not self._has(address):
                break
        return peer

    def _has(self, address: _Ip) -> bool:
        return any(address in network for network in self.networks)


def forwarded_for(head: Fields | bytes) -> Iterable[bytes]:
    """Return the values of ``X-Forwarded-For`` in order.

    Args:
        head: field lines, or an unparsed head of plain lines (see `plain_request.plain_fields`).
    """
    return _LINE.findall(head) if isinstance(head, bytes) else values(head, _FIELD)


def address_in(address: str | bytes) -> _Ip | None:
    """Parse an IP address; an IPv4-mapped IPv6 address becomes IPv4.

    Args:
        address: its text, or its 4 or 16 bytes.

    Returns:
        ``None`` when it is not an address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def network_of(text: str) -> _Network:
    """Parse an address or a network such as ``10.0.0.0/8``; an IPv4-mapped IPv6 network becomes IPv4.

    Raises:
        ValueError: it is neither, or has bits set behind the prefix.
    """
    if not _NETWORK.fullmatch(text):
        raise ValueError(text)
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.ip_network((str(mapped), network.prefixlen - 96))
    return network
