"""The Redis URL, checked at start: redis-py ignores unknown parts and fails at first use."""

import re
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.config.address import MAX_SOCKET_PATH_BYTES, split_host_port
from gateway.config.errors import InvalidValue, shown_as
from gateway.config.secret import Secret

_REMEDY: Final = (
    "write redis://host:port/db, rediss://host:port/db, unix:///path?db=N, "
    "redis+sentinel://host,host,host/SERVICE or redis+cluster://host,host"
)
# Each ends the authority or the host of a URL (RFC 3986 section 3.2).
_RESERVED: Final = "/?#[]"
# Splits as urllib.parse.urlsplit does, which redis-py uses.
_URL = re.compile(
    r"(?P<scheme>rediss?(\+(?P<kind>sentinel|cluster))?|unix)://((?P<userinfo>[^/?#\[\]]*)@)?(?P<host>[^/?#@]*)"
    r"(?P<path>(/[^?#]*)?)(\?(?P<query>[^#]*))?"
)
_VISIBLE = re.compile(r"([\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_USERINFO = re.compile(r"[^:]*:.+")
_DATABASE = re.compile(r"[0-9]{1,5}")
_QUERY = re.compile(rf"db={_DATABASE.pattern}")
# What a Sentinel accepts as a name.
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PORTS: Final = {"sentinel": 26_379, "cluster": 6_379}
_MAX_HOSTS: Final = 64


class RedisPlace(msgspec.Struct, frozen=True):
    """Where Redis is.

    Attributes:
        hosts: name or address and port of the Sentinels, or of some of a Cluster's nodes; none of a single
            server.
        service: by which the Sentinels know the primary.
        before_host: scheme and user of the URL of one server.
    """

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    before_host: str = ""
    database: str = ""

    def __repr__(self) -> str:
        return "RedisPlace(***)"

    def server_url(self, host: str, port: int) -> str:
        """Return the URL of one server, with user, password and database."""
        return f"{self.before_host}{f'[{host}]' if ':' in host else host}:{port}/{self.database}"


@shown_as("***")
def redis_url_of(text: str) -> Secret:
    """Return a URL of Redis, "" for none, as it is; the only query is `db`.

    Errors do not show it, since its password can't be located reliably.
    """
    if not text:
        return Secret()
    if not _VISIBLE.fullmatch(text):
        stray = "holds a % that begins no percent-encoding; write %25 for it"
        other = "holds a character that a URL may not hold; percent-encode it"
        raise InvalidValue(stray if _VISIBLE.fullmatch(text.replace("%", "%25")) else other)
    _check_reserved(text)
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidValue(f"is not a Redis URL; {_REMEDY}")
    if match["userinfo"] is not None and not _USERINFO.fullmatch(match["userinfo"]):
        raise InvalidValue("has no password before the @; write :password@ or user:password@")
    if match["query"] and not _QUERY.fullmatch(match["query"]):
        raise InvalidValue("has an unknown query argument; only ?db=N is possible")
    if match["scheme"] == "unix":
        _check_socket(match["host"], match["path"])
    elif match["kind"]:
        _place_of_several(match)
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
        raise InvalidValue(f"has {' '.join(reserved)} in its user or password; write {written}")


def _check_socket(host: str, path: str) -> None:
    if host or not path.startswith("/") or path.endswith("/"):
        raise InvalidValue("has no absolute path; write unix:///run/redis.sock")
    if len(unquote_to_bytes(path)) > MAX_SOCKET_PATH_BYTES:
        raise InvalidValue(f"has a path too long for a socket; use at most {MAX_SOCKET_PATH_BYTES} bytes")


def _check_server(authority: str, path: str, *, has_database: bool) -> None:
    if not authority:
        raise InvalidValue(f"has no host; {_REMEDY}")
    split_host_port(authority)
    number = path.removeprefix("/")
    if number and not _DATABASE.fullmatch(number):
        raise InvalidValue("has a path that is not a database number; write redis://host:port/0")
    if number and has_database:
        raise InvalidValue("names the database twice; write it either in the path or as ?db=N")


def redis_place(url: str) -> RedisPlace:
    """Return where a checked Redis URL leads."""
    match = _URL.fullmatch(url)
    return _place_of_several(match) if match is not None and match["kind"] else RedisPlace("single")


def _place_of_several(match: re.Match[str]) -> RedisPlace:
    """Read a URL of Sentinels or of a Cluster."""
    kind: Literal["sentinel", "cluster"] = "sentinel" if match["kind"] == "sentinel" else "cluster"
    if "@" in (match["userinfo"] or ""):
        raise InvalidValue(
            "has more than one @; write the user once, before the first host, and %40 for @ in it"
        )
    written = match["host"].split(",")
    if len(written) > _MAX_HOSTS:
        raise InvalidValue(f"has {len(written)} hosts; write at most {_MAX_HOSTS}")
    hosts = []
    for host_and_port in written:
        if not host_and_port:
            raise InvalidValue(f"has no host; {_REMEDY}")
        host, port = split_host_port(host_and_port)
        hosts.append((host, port or _PORTS[kind]))
    service, _, database = match["path"].removeprefix("/").partition("/")
    if match["query"]:
        raise InvalidValue("has a query; write the database in the path")
    if kind == "cluster":
        if service not in {"", "0"} or database:
            raise InvalidValue("names a database, but a Cluster has 0 alone; end it after the hosts")
        service = ""
    else:
        if not _SERVICE.fullmatch(service):
            raise InvalidValue("does not name the service; write redis+sentinel://host,host,host/SERVICE")
        if database and not _DATABASE.fullmatch(database):
            raise InvalidValue(
                "has no database number after the service; write redis+sentinel://host/SERVICE/0"
            )
    user = f"{match['userinfo']}@" if match["userinfo"] is not None else ""
    scheme = match["scheme"].partition("+")[0]
    return RedisPlace(kind, tuple(dict.fromkeys(hosts)), service, f"{scheme}://{user}", database or "0")


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
