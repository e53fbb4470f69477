"""Who asks when proxies stand in between: what the trusted ones of them tell in ``X-Forwarded-For``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Self

import msgspec

from gateway.core.http.messages import Fields, values

UNIX = "unix"
"""Stands for whoever is connected over a Unix socket."""
UNKNOWN = "unknown"
"""Stands for whoever is told by no address."""

_FIELD = b"x-forwarded-for"
_LINE = re.compile(rb"\r\n" + _FIELD + rb":([^\r\n]*)(?=\r\n)", re.IGNORECASE)
# Whoever is himself within a trusted network may send any number of them.
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
    """Proxies whose word about their callers is taken.

    Attributes:
        networks: where they are.
        unix: whoever is connected over a Unix socket is one.
    """

    networks: tuple[_Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Read addresses, networks and ``unix``, as `network_of` and the setting have them."""
        listed = list(texts)
        return cls(tuple(network_of(text) for text in listed if text != UNIX), UNIX in listed)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix

    def has(self, peer: str) -> bool:
        """Tell whether an address is a trusted proxy's.

        Args:
            peer: without port, or `UNIX`; anything else is nobody's.
        """
        if peer == UNIX:
            return self.unix
        address = address_in(peer)
        return address is not None and self._has(address)

    def caller(self, peer: str, told: Iterable[bytes]) -> str:
        """Return who asks behind a trusted peer: the right-most address that is not a trusted proxy's.

        Each proxy appends whom it was asked by, so the last one to be trusted was told by nobody who is not.

        Args:
            peer: a trusted proxy, see `has`.
            told: the values of the field, in order (see `forwarded_for`).

        Returns:
            An address without port. Behind trusted proxies alone, or an element that is none, it is the last
            one that could be read.
        """
        elements = b",".join(told).decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]
        for element in reversed(elements):
            text = element.strip(" \t")
            if not text:
                # An empty element of a list means nothing (RFC 9110 §5.6.1.2).
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
        head: field lines, or a whole head that was not parsed, whose lines are plain (see
            `plain_request.plain_fields`).
    """
    return _LINE.findall(head) if isinstance(head, bytes) else values(head, _FIELD)


def address_in(given: str | bytes) -> _Ip | None:
    """Read an IP address; one of version 4 that is mapped into version 6 is the former.

    Args:
        given: its text, or its 4 or 16 bytes.

    Returns:
        ``None`` when it is none.
    """
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def network_of(text: str) -> _Network:
    """Read an address or a network such as ``10.0.0.0/8``; version 4 mapped into 6 is the former.

    Raises:
        ValueError: it is none, or an address within a network.
    """
    if not _NETWORK.fullmatch(text):
        raise ValueError(text)
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.ip_network((str(mapped), network.prefixlen - 96))
    return network
