"""Which Host a request may name where a web page must not get in by DNS rebinding."""

from __future__ import annotations

import ipaddress
import re

import msgspec

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{0,5})?")


class OwnHosts(msgspec.Struct, frozen=True):
    """Hosts under which the gateway answers, beside ``localhost`` and IP literals.

    Attributes:
        names: lower-case names; any port.
        authorities: lower-case names with their port, if they have one.
    """

    names: frozenset[bytes]
    authorities: frozenset[bytes]

    def has(self, host: bytes) -> bool:
        """Tell whether a ``Host`` value is one of them; no foreign page can make a browser send one."""
        lower = host.lower()
        if lower in self.authorities:
            return True
        match = _HOST.fullmatch(lower)
        if match is None:
            return False
        name = match[1].removesuffix(b".")
        return name == b"localhost" or name in self.names or _is_address(name)


def _is_address(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.strip(b"[]").decode("ascii"))
    except ValueError:
        return False
    return True
