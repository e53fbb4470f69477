"""Addresses to listen on, and the upstream's URL."""

import ipaddress
import re
import socket
from typing import Final

import msgspec

from gateway.config.errors import ConfigError, InvalidValue, shorten, shown_as
from gateway.core.http.forwarded import address_in

_MAX_PORT: Final = 65_535
_MAX_HOST_CHARACTERS: Final = 253
# sun_path of Linux holds 108 bytes with the closing NUL (unix(7)).
MAX_SOCKET_PATH_BYTES: Final = 107
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)")
# pchar of RFC 3986 section 3.3, and the slash.
_PATH = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_MODE = re.compile(r"0{0,2}[0-7]{3}")
_ANY_WRITE: Final = 0o222
VISIBLE = re.compile(r"[\x21-\x7e]*")


class TcpAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP address to listen on: name or IP address without brackets, "" for all; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A Unix socket to listen on, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class Mode(msgspec.Struct, frozen=True):
    """Permissions of a Unix socket's file, as for chmod(2)."""

    bits: int

    def __str__(self) -> str:
        return f"{self.bits:04o}"


OWNER_ONLY: Final = Mode(0o600)


class UpstreamUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The upstream's URL in normal form, equal on all replicas.

    Attributes:
        scheme: "http" or "https".
        host: lower-case name or IP address without brackets.
        port: explicit, even if it is the scheme's default.
        base_path: "" or a path that starts with a slash and does not end with one.
    """

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def authority(self) -> str:
        """The value for Host (RFC 9110 section 7.2), without the scheme's default port."""
        host = _bracketed(self.host)
        return host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


def address_of(text: str) -> Address:
    """Read `host:port`, `[v6]:port`, `:port` for all interfaces, or `unix:/path`; or raise `InvalidValue`."""
    if text.startswith("unix:"):
        return UnixAddress(path=_socket_path(text))
    remedy = "write host:port, [v6]:port, :port for all interfaces, or unix:/path"
    host, colon, port = text.rpartition(":")
    if not colon:
        raise InvalidValue(f"has no port; {remedy}")
    return TcpAddress(host=_host_of(host, remedy), port=_port_of(port, least=0))


def mode_of(text: str) -> Mode:
    """Read the octal permissions of a Unix socket's file; `InvalidValue` also if nobody could connect."""
    if not _MODE.fullmatch(text):
        raise InvalidValue('is no file mode; write three octal digits, like "0660"')
    mode = Mode(int(text, 8))
    if not mode.bits & _ANY_WRITE:
        raise InvalidValue('lets nobody connect, which needs write permission; write "0600" or more')
    return mode


def parse_address(text: str) -> Address:
    """Read a listening address as `address_of`, but raise a `ConfigError` that shows the text."""
    try:
        return address_of(text)
    except InvalidValue as exc:
        raise ConfigError(f"address {shorten(text)}: {exc.remedy}") from exc


def is_loopback(address: Address) -> bool:
    """Tell whether only this machine can reach an address; true of Unix sockets."""
    return isinstance(address, UnixAddress) or is_loopback_host(address.host)


def is_loopback_host(host: str) -> bool:
    """Tell whether a host, without brackets, is this machine; "" (all interfaces) is not.

    That is localhost, 127.0.0.0/8, ::1 or an IPv4-mapped loopback address.
    """
    if host.lower().removesuffix(".") == "localhost":
        return True
    ip = address_in(host)
    return ip is not None and ip.is_loopback


def upstream_url_of(text: str) -> UpstreamUrl:
    """Read an http or https URL with an optional base path, without userinfo, query and fragment.

    An `InvalidValue` does not show these either.
    """
    with shown_as(shorten(_without_secrets(text))):
        if not text.isascii():
            raise InvalidValue("is not ASCII; write an international host name in its xn-- form")
        match = _URL.fullmatch(text) if VISIBLE.fullmatch(text) else None
        if match is None:
            raise InvalidValue(
                "is not a URL; write http://host:port or https://host, with an optional base path"
            )
        scheme = match["scheme"].lower()
        if scheme not in _DEFAULT_PORTS:
            raise InvalidValue("has an unknown scheme; write http:// or https://")
        if "@" in match["authority"]:
            raise InvalidValue(
                "holds userinfo; remove what stands before the @, callers bring their own credentials"
            )
        if match["rest"]:
            raise InvalidValue("has a query or fragment; end the URL after the base path")
        host, port = split_host_port(match["authority"])
        path = match["path"].removesuffix("/")
        if not _PATH.fullmatch(path):
            raise InvalidValue("has a character in its path that a URL may not hold; percent-encode it")
        if any(segment in {"", ".", ".."} for segment in path.split("/")[1:]):
            raise InvalidValue("has an empty or dot segment in its path; write the path in its shortest form")
    return UpstreamUrl(scheme=scheme, host=host.lower(), port=port or _DEFAULT_PORTS[scheme], base_path=path)


def host_and_port_of(text: str) -> str:
    """Check `host` or `host:port` and return it in lower case; raise `InvalidValue` if it is none."""
    split_host_port(text)
    return text.lower()


def host_name_of(text: str) -> str:
    """Check a host name without port and return it in lower case; raise `InvalidValue` if it is none."""
    remedy = "write the name alone, without scheme and port"
    if not text:
        raise InvalidValue(f"is empty; {remedy}")
    return _host_of(text, remedy).lower()


def split_host_port(authority: str) -> tuple[str, int | None]:
    """Return host, without brackets, and port of `host`, `host:port` or `[v6]:port`."""
    host, port = authority, None
    if ":" in authority[authority.rfind("]") + 1 :]:
        host, _, digits = authority.rpartition(":")
        port = _port_of(digits, least=1)
    if not host:
        raise InvalidValue("has no host; write http://host:port or https://host")
    return _host_of(host, "put IPv6 addresses in brackets"), port


def _port_of(digits: str, *, least: int) -> int:
    if re.fullmatch(r"[0-9]{1,5}", digits) and least <= int(digits) <= _MAX_PORT:
        return int(digits)
    raise InvalidValue(f"has a bad port; write a number from {least} to {_MAX_PORT}")


def _host_of(host: str, remedy: str) -> str:
    """Return the host without brackets, an IPv6 address in its shortest form."""
    if host.startswith("[") and host.endswith("]"):
        try:
            # Not ipaddress: its text of a mapped address differs between Python versions.
            return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host[1:-1]))
        except (OSError, ValueError) as exc:
            raise InvalidValue("has a bad IPv6 address; write it like [::1]") from exc
    labels = host.removesuffix(".").split(".")
    if host and (len(host) > _MAX_HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels)):
        raise InvalidValue(f"has a bad host; {remedy}")
    if labels[-1].isdigit():
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as exc:
            raise InvalidValue("has a bad IPv4 address; write four numbers from 0 to 255") from exc
    return host


def _socket_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.startswith("//") or not path.isprintable() or path.endswith("/"):
        raise InvalidValue("is not an absolute path; write unix:/run/name.sock")
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise InvalidValue(f"is too long for a socket; use at most {MAX_SOCKET_PATH_BYTES} bytes")
    return path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _without_secrets(url: str) -> str:
    """Leave out what may hold a secret: userinfo, query, fragment."""
    before, at, after = url.rpartition("@")
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", before)
    start = (scheme[0] if scheme else "") + "***@" if at else ""
    return start + re.split(r"[?#]", after)[0]
