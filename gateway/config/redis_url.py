"""The Redis URL, checked at start: redis-py ignores unknown parts and fails at first use."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.config.address import MAX_SOCKET_PATH_BYTES, host_and_port_of
from gateway.config.errors import InvalidValue
from gateway.config.secret import Secret

_REMEDY: Final = "write redis://host:port/db, rediss://host:port/db or unix:///path?db=N"
_SHOWN: Final = "***"
# Each ends the authority or the host of a URL (RFC 3986 section 3.2).
_RESERVED: Final = "/?#[]"
# Splits as urllib.parse.urlsplit does, which redis-py uses.
_URL = re.compile(
    r"(?P<scheme>redis|rediss|unix)://((?P<userinfo>[^/?#\[\]]*)@)?(?P<host>[^/?#@]*)"
    r"(?P<path>(/[^?#]*)?)(\?(?P<query>[^#]*))?"
)
_VISIBLE = re.compile(r"([\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_USERINFO = re.compile(r"[^:]*:.+")
_DATABASE = re.compile(r"[0-9]{1,5}")
_QUERY = re.compile(rf"db={_DATABASE.pattern}")


def redis_url_of(text: str) -> Secret:
    """Return a `redis://`, `rediss://` or `unix://` URL, "" for no Redis, as it is; the only query is `db`.

    Errors do not show it, since its password can't be located reliably.
    """
    if not text:
        return Secret()
    if not _VISIBLE.fullmatch(text):
        stray = "holds a % that begins no percent-encoding; write %25 for it"
        other = "holds a character that a URL may not hold; percent-encode it"
        raise InvalidValue(_SHOWN, stray if _VISIBLE.fullmatch(text.replace("%", "%25")) else other)
    _check_reserved(text)
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidValue(_SHOWN, f"is not a Redis URL; {_REMEDY}")
    if match["userinfo"] is not None and not _USERINFO.fullmatch(match["userinfo"]):
        raise InvalidValue(_SHOWN, "has no password before the @; write :password@ or user:password@")
    if match["query"] and not _QUERY.fullmatch(match["query"]):
        raise InvalidValue(_SHOWN, "has an unknown query argument; only ?db=N is possible")
    if match["scheme"] == "unix":
        _check_socket(match["host"], match["path"])
    else:
        _check_server(match["host"], match["path"], has_database=bool(match["query"]))
    return Secret(text)


def masked_redis_url(url: Secret) -> str:
    """Return a checked Redis URL without user and password, "" for none."""
    match = _URL.fullmatch(url.reveal())
    if match is None:
        return str(url)
    user = "***@" if match["userinfo"] is not None else ""
    query = f"?{match['query']}" if match["query"] else ""
    return f"{match['scheme']}://{user}{match['host']}{match['path']}{query}"


def _check_reserved(text: str) -> None:
    """Reject reserved characters in user or password, which would end the authority before the host."""
    scheme, _, rest = text.partition("://")
    userinfo = rest.rpartition("@")[0]
    # unix:///path@name has no userinfo, only a path.
    if scheme == "unix" and rest.startswith("/"):
        return
    if reserved := [character for character in _RESERVED if character in userinfo]:
        written = ", ".join(f"%{ord(character):02X} for {character}" for character in reserved)
        raise InvalidValue(_SHOWN, f"has {' '.join(reserved)} in its user or password; write {written}")


def _check_socket(host: str, path: str) -> None:
    if host or not path.startswith("/") or path.endswith("/"):
        raise InvalidValue(_SHOWN, "has no absolute path; write unix:///run/redis.sock")
    if len(unquote_to_bytes(path)) > MAX_SOCKET_PATH_BYTES:
        raise InvalidValue(
            _SHOWN, f"has a path too long for a socket; use at most {MAX_SOCKET_PATH_BYTES} bytes"
        )


def _check_server(authority: str, path: str, *, has_database: bool) -> None:
    if not authority:
        raise InvalidValue(_SHOWN, f"has no host; {_REMEDY}")
    host_and_port_of(authority, _SHOWN)
    number = path.removeprefix("/")
    if number and not _DATABASE.fullmatch(number):
        raise InvalidValue(_SHOWN, "has a path that is not a database number; write redis://host:port/0")
    if number and has_database:
        raise InvalidValue(_SHOWN, "names the database twice; write it either in the path or as ?db=N")


def same_redis(one: Secret, other: Secret) -> bool:
    """Tell whether two checked Redis URLs differ at most in user and password."""
    return _place(one) == _place(other)


def invalidation_scope(url: Secret, prefix: str) -> str:
    """Return what identifies the replicas that share invalidations, without password; empty without Redis."""
    place = _place(url)
    return "" if place is None else repr((*place, prefix))


def _place(url: Secret) -> tuple[str, ...] | None:
    match = _URL.fullmatch(url.reveal())
    return None if match is None else match.group("scheme", "host", "path", "query")
