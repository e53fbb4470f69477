"""The Redis URL, checked by hand: redis-py accepts what it does not know and fails at the first use."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.config.address import MAX_SOCKET_PATH_BYTES, host_and_port_of
from gateway.config.errors import InvalidValue
from gateway.config.secret import Secret

_REMEDY: Final = "write redis://host:port/db, rediss://host:port/db or unix:///path?db=N"
_SHOWN: Final = "***"
# They end the authority of a URL, or a host (RFC 3986 section 3.2), wherever they were meant to stand.
_RESERVED: Final = "/?#[]"
# The same cuts as urllib.parse.urlsplit makes, which redis-py uses.
_URL = re.compile(
    r"(?P<scheme>redis|rediss|unix)://((?P<userinfo>[^/?#\[\]]*)@)?(?P<host>[^/?#@]*)"
    r"(?P<path>(/[^?#]*)?)(\?(?P<query>[^#]*))?"
)
_VISIBLE = re.compile(r"([\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_USERINFO = re.compile(r"[^:]*:.+")
_DATABASE = re.compile(r"[0-9]{1,5}")


def redis_url_of(text: str) -> Secret:
    """Check a Redis URL.

    Args:
        text: `redis://`, `rediss://` or `unix://` URL, "" for no Redis; the only query argument is `db`.

    Returns:
        The URL as it came, secret because it may hold a password.

    Raises:
        Refused: the URL is not shown, because it can't be told where its password stands.
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
    database = _database_in_query(match["query"])
    if match["scheme"] == "unix":
        _check_socket(match["host"], match["path"])
    else:
        _check_server(match["host"], match["path"], has_database=database is not None)
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
    """Say so when a reserved character in user or password would end the authority before its host."""
    scheme, _, rest = text.partition("://")
    userinfo = rest.rpartition("@")[0]
    # unix:///path@name has no userinfo, only a path.
    if scheme == "unix" and rest.startswith("/"):
        return
    if found := [character for character in _RESERVED if character in userinfo]:
        written = ", ".join(f"%{ord(character):02X} for {character}" for character in found)
        raise InvalidValue(_SHOWN, f"has {' '.join(found)} in its user or password; write {written}")


def _database_in_query(query: str | None) -> str | None:
    if not query:
        return None
    name, _, number = query.partition("=")
    if name != "db" or not _DATABASE.fullmatch(number):
        raise InvalidValue(_SHOWN, "has an unknown query argument; only ?db=N is possible")
    return number


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
    try:
        host_and_port_of(authority)
    except InvalidValue as exc:
        raise InvalidValue(_SHOWN, exc.remedy) from None
    number = path.removeprefix("/")
    if number and not _DATABASE.fullmatch(number):
        raise InvalidValue(_SHOWN, "has a path that is not a database number; write redis://host:port/0")
    if number and has_database:
        raise InvalidValue(_SHOWN, "names the database twice; write it either in the path or as ?db=N")


def same_redis(one: object, other: object) -> bool:
    """Tell whether two checked Redis URLs differ in user and password at most."""
    return isinstance(one, Secret) and isinstance(other, Secret) and _place(one) == _place(other)


def told_through(url: Secret, prefix: str) -> str:
    """Return where replicas tell what they forget, without user and password; empty without Redis."""
    place = _place(url)
    return "" if place is None else repr((*place, prefix))


def _place(url: Secret) -> tuple[str, ...] | None:
    match = _URL.fullmatch(url.reveal())
    return None if match is None else match.group("scheme", "host", "path", "query")
