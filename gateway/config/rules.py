"""Which settings there are and what each accepts, as a table."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.config.address import address_of, host_and_port_of, host_name_of, mode_of, upstream_url_of
from gateway.config.errors import InvalidValue, shorten
from gateway.config.redis_url import redis_url_of
from gateway.config.secret import Secret
from gateway.config.text import encoding_fault
from gateway.config.types import Boolean, Enum, Integer, Number, Rule, String, StringList
from gateway.core.http.fields import is_sent_unchanged
from gateway.core.http.forwarded import UNIX, network_of

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
        raise InvalidValue(shorten(text), 'is not a phase; write it as AOS does, like "Succeeded"')
    # Whatever AOS calls ...ing is under way, and a paused execution can resume.
    if text.lower().endswith("ing") or text.lower() == "paused":
        raise InvalidValue(shorten(text), "is a phase in progress, whose records still change; remove it")
    return text


def _some_phases(phases: tuple[str, ...]) -> tuple[str, ...]:
    if not phases:
        raise InvalidValue("[]", 'is empty, so nothing could be stored; name at least "Succeeded"')
    return phases


def _field_name(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text):
        raise InvalidValue(shorten(text), "is not a header name; write a name like X-Project-Id")
    folded = text.lower().replace("_", "-")
    if folded == "authorization":
        raise InvalidValue(
            shorten(text), "always bypasses the cache, so it tells no callers apart; remove it"
        )
    # A field that the upstream does not see as it came can't be what its answer depends on.
    if not is_sent_unchanged(folded.encode("ascii")):
        raise InvalidValue(shorten(text), "does not reach the upstream as the caller sent it; remove it")
    if folded == "x-auth-token" and text.lower() != folded:
        raise InvalidValue(shorten(text), "is a look-alike of X-Auth-Token, which always counts; remove it")
    return text


def _distinct_fields(names: tuple[str, ...]) -> tuple[str, ...]:
    folded = [name.lower().replace("_", "-") for name in names]
    for name, stack_key in zip(names, folded, strict=True):
        if folded.count(stack_key) > 1:
            raise InvalidValue(
                shorten(name), "differs from another name in the list by - and _ alone; remove one"
            )
    # X-Auth-Token always counts; whoever lists it all the same means just that.
    return tuple(name for name in names if name.lower() != "x-auth-token")


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise InvalidValue(shorten(text), "is not a prefix; write 1 to 64 of A-Z a-z 0-9 _ . : -")
    return text


def _admin_token(text: str) -> Secret:
    if not _VISIBLE.fullmatch(text):
        raise InvalidValue(
            "***", "holds a blank, control or non-ASCII character; use printable ASCII, like hex or base64"
        )
    return Secret(text)


def _proxy(text: str) -> str:
    if text == UNIX:
        return text
    try:
        network = network_of(text)
    except ValueError as exc:
        raise InvalidValue(
            shorten(text), 'is no address or network; write it like "10.0.0.1", "10.0.0.0/8" or "unix"'
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
        raise InvalidValue(
            shorten(text), "holds no certificates; name a PEM file with the CA certificates"
        ) from exc
    return text


def _file(text: str) -> str:
    if not text:
        return text
    try:
        with Path(text).open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no valid path"
        raise InvalidValue(shorten(text), f"can't be read ({reason}); name a readable PEM file") from exc
    if (fault := encoding_fault(beginning)) is not None:
        raise InvalidValue(shorten(text), fault)
    return text


def _endpoint(text: str) -> str:
    if not text:
        return text
    if not _ENDPOINT.fullmatch(text):
        remedy = "write http:// or https://, a host and a path, without user and query, like"
        raise InvalidValue(shorten(text), f"is no endpoint; {remedy} http://127.0.0.1:4318/v1/traces")
    try:
        is_there = all(
            find_spec(f"opentelemetry.{name}") for name in ("sdk.trace", "exporter.otlp.proto.http")
        )
    except ImportError:
        is_there = False
    if not is_there:
        raise InvalidValue(shorten(text), "needs OpenTelemetry; install aos-gateway[otel]")
    return text


_POSITIVE_S = Number(0.01, _DAY_S)
_LIFE_S = Number(0.01, _YEAR_S)

RULES: Final[Mapping[str, Rule]] = {
    "server.listen": String(address_of),
    "server.listen_mode": String(mode_of),
    "server.admin_listen": String(address_of),
    "server.admin_listen_mode": String(mode_of),
    "server.admin_token": String(_admin_token, is_secret=True),
    "server.admin_hosts": StringList(host_name_of),
    "server.workers": Integer(0, 1_024, "processes"),
    "server.header_timeout_s": _POSITIVE_S,
    "server.body_timeout_s": _POSITIVE_S,
    "server.keepalive_timeout_s": _POSITIVE_S,
    "server.max_header_bytes": Integer(1_024, _MEBIBYTE, "bytes"),
    "server.max_connections": Integer(1, 1_000_000, "connections"),
    "server.max_connections_per_peer": Integer(0, 1_000_000, "connections"),
    "server.proxy_protocol": Boolean(),
    "server.trusted_proxies": StringList(_proxy),
    "server.drain_grace_s": Number(0, 3_600),
    "server.drain_timeout_s": Number(0, 3_600),
    "server.fast_lane": Boolean(),
    "server.tls_cert": String(_file),
    "server.tls_key": String(_file),
    "server.tls_client_ca": String(_ca_file),
    "upstream.url": String(upstream_url_of),
    "upstream.connect_timeout_s": _POSITIVE_S,
    "upstream.read_timeout_s": _POSITIVE_S,
    "upstream.total_timeout_s": _POSITIVE_S,
    "upstream.max_connections": Integer(1, 65_536, "connections"),
    "upstream.max_waiting": Integer(0, 1_000_000, "requests"),
    "upstream.connection_max_age_s": _POSITIVE_S,
    "upstream.signed_hosts": StringList(host_and_port_of),
    "upstream.ca_file": String(_ca_file),
    "upstream.client_cert": String(_file),
    "upstream.client_key": String(_file),
    "upstream.server_name": String(_server_name),
    "cache.scope": Enum(("caller", "shared")),
    "cache.allow_shared_on_network": Boolean(),
    "cache.access_ttl_s": _POSITIVE_S,
    "cache.identity_headers": StringList(_field_name, _distinct_fields),
    "cache.terminal_phases": StringList(_phase, _some_phases),
    "cache.ttl_succeeded_s": _LIFE_S,
    "cache.ttl_failed_s": _LIFE_S,
    "cache.ttl_unsettled_s": _LIFE_S,
    "cache.settle_s": Number(0, _DAY_S),
    "cache.memory_bytes": Integer(0, 1_048_576 * _MEBIBYTE, "bytes"),
    "cache.memory_ttl_s": _POSITIVE_S,
    "cache.max_body_bytes": Integer(1, 256 * _MEBIBYTE, "bytes"),
    "cache.origin_cache_control": Enum(("obey", "ignore")),
    "cache.secret": String(Secret, is_secret=True),
    "redis.url": String(redis_url_of, is_secret=True),
    "redis.prefix": String(_prefix),
    "redis.timeout_s": Number(0.001, 60),
    "redis.max_connections": Integer(1, 10_000, "connections"),
    "redis.ca_file": String(_ca_file),
    "log.level": Enum(("debug", "info", "warning", "error")),
    "log.format": Enum(("auto", "json", "text")),
    "log.access": Enum(("all", "errors", "off")),
    "log.sample": Number(0, 1, unit=""),
    "log.caller": Boolean(),
    "tracing.endpoint": String(_endpoint),
    "tracing.sample": Number(0, 1, unit=""),
}

# Settings that the environment may also give as the name of a file that holds them.
FROM_FILE: Final = frozenset({"cache.secret", "redis.url", "server.admin_token"})
