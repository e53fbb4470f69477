"""Which settings there are and what each accepts, as a table."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.config.address import address_of, host_and_port_of, host_name_of, mode_of, upstream_url_of
from gateway.config.error import Refused, shown
from gateway.config.kinds import Choice, Number, Rule, Switch, Text, Texts, Whole
from gateway.config.redis_url import redis_url_of
from gateway.config.secret import Secret
from gateway.config.text import encoding_fault
from gateway.core.http.forwarded import UNIX, network_of
from gateway.core.http.headers import is_sent_unchanged

_DAY_S: Final = 86_400
_YEAR_S: Final = 365 * _DAY_S
_MEBIBYTE: Final = 1_048_576
_BEGINNING_BYTES: Final = 64
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PHASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# token of RFC 9110 section 5.6.2.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~%/-]*)?")
_VISIBLE = re.compile(r"[\x21-\x7e]*")


def _phase(text: str) -> str:
    if not _PHASE.fullmatch(text):
        raise Refused(shown(text), 'is not a phase; write it as AOS does, like "Succeeded"')
    # Whatever AOS calls ...ing is under way, and a paused execution can resume.
    if text.lower().endswith("ing") or text.lower() == "paused":
        raise Refused(shown(text), "is a phase in progress, whose records still change; remove it")
    return text


def _some_phases(phases: tuple[str, ...]) -> tuple[str, ...]:
    if not phases:
        raise Refused("[]", 'is empty, so nothing could be stored; name at least "Succeeded"')
    return phases


def _field_name(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text):
        raise Refused(shown(text), "is not a header name; write a name like X-Project-Id")
    folded = text.lower().replace("_", "-")
    if folded == "authorization":
        raise Refused(shown(text), "always bypasses the cache, so it tells no callers apart; remove it")
    # A field that the upstream does not see as it came can't be what its answer depends on.
    if not is_sent_unchanged(folded.encode("ascii")):
        raise Refused(shown(text), "does not reach the upstream as the caller sent it; remove it")
    if folded == "x-auth-token" and text.lower() != folded:
        raise Refused(shown(text), "is a look-alike of X-Auth-Token, which always counts; remove it")
    return text


def _distinct_fields(names: tuple[str, ...]) -> tuple[str, ...]:
    folded = [name.lower().replace("_", "-") for name in names]
    for name, fold in zip(names, folded, strict=True):
        if folded.count(fold) > 1:
            raise Refused(shown(name), "differs from another name in the list by - and _ alone; remove one")
    # X-Auth-Token always counts; whoever lists it all the same means just that.
    return tuple(name for name in names if name.lower() != "x-auth-token")


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise Refused(shown(text), "is not a prefix; write 1 to 64 of A-Z a-z 0-9 _ . : -")
    return text


def _admin_token(text: str) -> Secret:
    if not _VISIBLE.fullmatch(text):
        raise Refused(
            "***", "holds a blank, control or non-ASCII character; use printable ASCII, like hex or base64"
        )
    return Secret(text)


def _proxy(text: str) -> str:
    if text == UNIX:
        return text
    try:
        network = network_of(text)
    except ValueError as exc:
        raise Refused(
            shown(text), 'is no address or network; write it like "10.0.0.1", "10.0.0.0/8" or "unix"'
        ) from exc
    return str(network.network_address if network.num_addresses == 1 else network)


def _server_name(text: str) -> str:
    return host_name_of(text) if text else text


def _ca_file(text: str) -> str:
    if not _file(text):
        return text
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=text)
    except (ssl.SSLError, ValueError) as exc:
        raise Refused(shown(text), "holds no certificates; name a PEM file with the CA certificates") from exc
    return text


def _file(text: str) -> str:
    if not text:
        return text
    try:
        with Path(text).open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no valid path"
        raise Refused(shown(text), f"can't be read ({reason}); name a readable PEM file") from exc
    if (fault := encoding_fault(beginning)) is not None:
        raise Refused(shown(text), fault)
    return text


def _endpoint(text: str) -> str:
    if not text:
        return text
    if not _ENDPOINT.fullmatch(text):
        remedy = "write http:// or https://, a host and a path, without user and query, like"
        raise Refused(shown(text), f"is no endpoint; {remedy} http://127.0.0.1:4318/v1/traces")
    try:
        is_there = all(
            find_spec(f"opentelemetry.{name}") for name in ("sdk.trace", "exporter.otlp.proto.http")
        )
    except ImportError:
        is_there = False
    if not is_there:
        raise Refused(shown(text), "needs OpenTelemetry; install aos-gateway[otel]")
    return text


_POSITIVE_S = Number(0.01, _DAY_S)
_LIFE_S = Number(0.01, _YEAR_S)

RULES: Final[Mapping[str, Rule]] = {
    "server.listen": Text(address_of),
    "server.listen_mode": Text(mode_of),
    "server.admin_listen": Text(address_of),
    "server.admin_listen_mode": Text(mode_of),
    "server.admin_token": Text(_admin_token, is_secret=True),
    "server.admin_hosts": Texts(host_name_of),
    "server.workers": Whole(0, 1_024, "processes"),
    "server.header_timeout_s": _POSITIVE_S,
    "server.body_timeout_s": _POSITIVE_S,
    "server.keepalive_timeout_s": _POSITIVE_S,
    "server.max_header_bytes": Whole(1_024, _MEBIBYTE, "bytes"),
    "server.max_connections": Whole(1, 1_000_000, "connections"),
    "server.max_connections_per_peer": Whole(0, 1_000_000, "connections"),
    "server.proxy_protocol": Switch(),
    "server.trusted_proxies": Texts(_proxy),
    "server.drain_grace_s": Number(0, 3_600),
    "server.drain_timeout_s": Number(0, 3_600),
    "server.fast_lane": Switch(),
    "server.tls_cert": Text(_file),
    "server.tls_key": Text(_file),
    "server.tls_client_ca": Text(_ca_file),
    "upstream.url": Text(upstream_url_of),
    "upstream.connect_timeout_s": _POSITIVE_S,
    "upstream.read_timeout_s": _POSITIVE_S,
    "upstream.total_timeout_s": _POSITIVE_S,
    "upstream.max_connections": Whole(1, 65_536, "connections"),
    "upstream.max_waiting": Whole(0, 1_000_000, "requests"),
    "upstream.connection_max_age_s": _POSITIVE_S,
    "upstream.signed_hosts": Texts(host_and_port_of),
    "upstream.ca_file": Text(_ca_file),
    "upstream.client_cert": Text(_file),
    "upstream.client_key": Text(_file),
    "upstream.server_name": Text(_server_name),
    "cache.scope": Choice(("caller", "shared")),
    "cache.allow_shared_on_network": Switch(),
    "cache.access_ttl_s": _POSITIVE_S,
    "cache.identity_headers": Texts(_field_name, _distinct_fields),
    "cache.terminal_phases": Texts(_phase, _some_phases),
    "cache.ttl_succeeded_s": _LIFE_S,
    "cache.ttl_failed_s": _LIFE_S,
    "cache.ttl_unsettled_s": _LIFE_S,
    "cache.settle_s": Number(0, _DAY_S),
    "cache.memory_bytes": Whole(0, 1_048_576 * _MEBIBYTE, "bytes"),
    "cache.memory_ttl_s": _POSITIVE_S,
    "cache.max_body_bytes": Whole(1, 256 * _MEBIBYTE, "bytes"),
    "cache.origin_cache_control": Choice(("obey", "ignore")),
    "cache.secret": Text(Secret, is_secret=True),
    "redis.url": Text(redis_url_of, is_secret=True),
    "redis.prefix": Text(_prefix),
    "redis.timeout_s": Number(0.001, 60),
    "redis.max_connections": Whole(1, 10_000, "connections"),
    "redis.ca_file": Text(_ca_file),
    "log.level": Choice(("debug", "info", "warning", "error")),
    "log.format": Choice(("auto", "json", "text")),
    "log.access": Choice(("all", "errors", "off")),
    "log.sample": Number(0, 1, unit=""),
    "log.caller": Switch(),
    "tracing.endpoint": Text(_endpoint),
    "tracing.sample": Number(0, 1, unit=""),
}

# Settings that the environment may also give as the name of a file that holds them.
FROM_FILE: Final = frozenset({"cache.secret", "redis.url", "server.admin_token"})
