"""The Host field: its syntax, and which hosts are the gateway's own."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Self

import msgspec

# uri-host and port of RFC 3986 §3.2, without userinfo. No comma, though a name may contain one: it is how
# an intermediary joins two Host fields.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::([0-9]{0,5}))?")
_MAX_PORT = 65535


def host_name(host: bytes) -> bytes | None:
    """Return the name or address in a ``Host`` value, without port; ``None`` when it is malformed."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or b"0") > _MAX_PORT:
        return None
    name = match[1]
    return None if name.startswith(b"[") and not _is_address(name) else name


class OwnHosts(msgspec.Struct, frozen=True):
    """Hosts under which the gateway answers, besides ``localhost`` and IP literals.

    A browser can't be made to send one of them for a foreign page, so they protect from DNS rebinding.

    Attributes:
        names: lower-case names without a final dot; any port.
        authorities: lower-case names with their port, if they have one.
    """

    names: frozenset[bytes]
    authorities: frozenset[bytes]

    @classmethod
    def of(cls, names: Iterable[str], authorities: Iterable[str] = ()) -> Self:
        """Build it from configured hosts in any case."""
        return cls(
            frozenset(name.lower().removesuffix(".").encode("ascii") for name in names),
            frozenset(authority.lower().encode("ascii") for authority in authorities),
        )

    def has(self, host: bytes) -> bool:
        """Tell whether a ``Host`` value is one of them."""
        lower = host.lower()
        if lower in self.authorities:
            return True
        name = host_name(lower)
        if name is None:
            return False
        name = name.removesuffix(b".")
        return name == b"localhost" or name in self.names or _is_address(name)


def _is_address(name: bytes) -> bool:
    kind = ipaddress.IPv6Address if name.startswith(b"[") else ipaddress.IPv4Address
    try:
        kind(name.strip(b"[]").decode("ascii"))
    except ValueError:
        return False
    return True
