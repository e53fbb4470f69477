"""Every setting: its section, meaning, type, rule and default."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from gateway.config import address, rules
from gateway.config.redis_url import redis_url_of
from gateway.config.secret import Secret
from gateway.config.types import Boolean, Enum, Number, Rule, String, StringList

_DAY_S: Final = 86_400
_MEBIBYTE: Final = 1_048_576

Seconds = Annotated[float, Number(0.01, _DAY_S)]
Life = Annotated[float, Number(0.01, 365 * _DAY_S)]
DrainTime = Annotated[float, Number(0, 3_600)]
Share = Annotated[float, Number(0, 1, unit="")]
File = Annotated[str, String(rules.file_of, is_optional=True)]
CaFile = Annotated[str, String(rules.ca_file_of, is_optional=True)]
Listener = Annotated[address.Address, String(address.address_of)]
SocketMode = Annotated[address.Mode, String(address.mode_of)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[server]`: listeners and bounds of connections.

    Attributes:
        listen: address for callers.
        listen_mode: permissions of a Unix socket for callers.
        admin_listen: address for operators.
        admin_listen_mode: permissions of a Unix socket for operators.
        admin_token: gives peers from the network access to the protected admin paths; empty: to none.
        admin_hosts: hosts that a request to the admin address may name besides loopback and IP literals.
        workers: processes that share the listener; 0: one for each usable core.
        header_timeout_s: from the first byte of a request to the end of its head, seconds.
        body_timeout_s: between two reads of a request body or two writes of a response, seconds.
        keepalive_timeout_s: how long an idle connection stays open, seconds.
        max_header_bytes: bound of a request's head.
        max_connections: bound of open connections from callers.
        max_connections_per_peer: bound of open connections from one address; 0 for none.
        proxy_protocol: each connection begins with a header of the PROXY protocol, version 1 or 2.
        trusted_proxies: addresses and networks whose X-Forwarded-For is trusted; "unix": Unix sockets.
        drain_grace_s: how long to keep accepting after `/readyz` has turned false, seconds.
        drain_timeout_s: how long running requests may take when stopping, seconds.
        fast_lane: answer plain requests for records in memory without the full parser.
        tls_cert: PEM file with the certificate chain for callers over TLS; "" for plain connections.
        tls_key: PEM file with its key.
        tls_client_ca: PEM file with the authorities for client certificates; "" to require none.
    """

    listen: Listener = address.TcpAddress(host="127.0.0.1", port=8080)
    listen_mode: SocketMode = address.OWNER_ONLY
    admin_listen: Listener = address.TcpAddress(host="127.0.0.1", port=9901)
    admin_listen_mode: SocketMode = address.OWNER_ONLY
    admin_token: Annotated[Secret, String(rules.secret_of, is_secret=True)] = Secret()
    admin_hosts: Annotated[tuple[str, ...], StringList(address.host_name_of)] = ()
    workers: Annotated[int, Number(0, 1_024, "processes", int)] = 1
    header_timeout_s: Seconds = 15.0
    body_timeout_s: Seconds = 30.0
    keepalive_timeout_s: Seconds = 75.0
    max_header_bytes: Annotated[int, Number(1_024, _MEBIBYTE, "bytes", int)] = 65_536
    max_connections: Annotated[int, Number(1, 1_000_000, "connections", int)] = 20_000
    max_connections_per_peer: Annotated[int, Number(0, 1_000_000, "connections", int)] = 0
    proxy_protocol: bool = False
    trusted_proxies: Annotated[tuple[str, ...], StringList(rules.proxy_of)] = ()
    drain_grace_s: DrainTime = 0.0
    drain_timeout_s: DrainTime = 25.0
    fast_lane: bool = True
    tls_cert: File = ""
    tls_key: File = ""
    tls_client_ca: CaFile = ""


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[upstream]`: the AOS behind the gateway.

    Attributes:
        url: scheme, host, port and base path of AOS; the one key without a default.
        connect_timeout_s: to establish a connection, TLS included, seconds.
        read_timeout_s: to the first byte of a response and between two reads, seconds.
        total_timeout_s: of one fetch of an execution record, seconds.
        max_connections: bound of connections to the upstream.
        max_waiting: bound of requests that wait for a connection.
        connection_max_age_s: age at which a pooled connection is replaced, seconds.
        hold_back: repeat a 429 to its caller while the time that it asks for runs, instead of forwarding.
        signed_hosts: lower-case `host` or `host:port` that a signed request may name besides the upstream's.
        ca_file: PEM file with the certificates to trust; "" for those of the system.
        client_cert: PEM file with the certificate chain for an https upstream; "" for none.
        client_key: PEM file with its key.
        server_name: name that the upstream's certificate must have; "" for the host of the URL.
    """

    url: Annotated[address.UpstreamUrl, String(address.upstream_url_of)]
    connect_timeout_s: Seconds = 3.0
    read_timeout_s: Seconds = 30.0
    total_timeout_s: Seconds = 60.0
    max_connections: Annotated[int, Number(1, 65_536, "connections", int)] = 256
    max_waiting: Annotated[int, Number(0, 1_000_000, "requests", int)] = 1_024
    connection_max_age_s: Seconds = 300.0
    hold_back: bool = True
    signed_hosts: Annotated[tuple[str, ...], StringList(address.host_and_port_of)] = ()
    ca_file: CaFile = ""
    client_cert: File = ""
    client_key: File = ""
    server_name: Annotated[str, String(address.host_name_of, is_optional=True)] = ""


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[cache]`: what is stored, for whom and for how long.

    Attributes:
        scope: "caller": an entry belongs to one credential; "shared": to everybody who can connect.
        allow_shared_on_network: allow "shared" on an address that the network can reach.
        access_ttl_s: longest time to live of a caller's entry, seconds.
        identity_headers: fields that identify a caller, besides X-Auth-Token.
        terminal_phases: phases whose records may be stored, compared exactly.
        ttl_succeeded_s: time to live of a Succeeded record, seconds.
        ttl_failed_s: time to live of a record in any other terminal phase, seconds.
        ttl_unsettled_s: time to live of a record that might still change, seconds.
        ttl_running_s: how long the record of a running execution may be given again, seconds; 0: never.
        settle_s: how long a stack's records count as unsettled after a write, seconds.
        memory_bytes: bound of the memory tier; 0 disables it.
        memory_ttl_s: time to live of a copy in memory when Redis is configured, seconds.
        max_body_bytes: largest record that is stored.
        origin_cache_control: whether the upstream's Cache-Control is obeyed.
        secret: key of the digests and tags of entries, equal on all replicas; empty for none.
    """

    scope: Literal["caller", "shared"] = "caller"
    allow_shared_on_network: bool = False
    access_ttl_s: Seconds = 300.0
    identity_headers: Annotated[tuple[str, ...], StringList(rules.field_name_of, rules.distinct_fields)] = (
        "X-Project-Id",
        "X-Domain-Id",
        "X-Security-Token",
        "X-Subject-Token",
        "X-Enterprise-Project-Id",
        "X-Apig-AppCode",
        "Cookie",
    )
    terminal_phases: Annotated[tuple[str, ...], StringList(rules.phase_of, rules.some_phases)] = (
        "Succeeded",
        "Failed",
        "Cancelled",
        "ForceCancelled",
    )
    ttl_succeeded_s: Life = 86_400.0
    ttl_failed_s: Life = 3_600.0
    ttl_unsettled_s: Life = 30.0
    ttl_running_s: Annotated[float, Number(0, 60)] = 0.0
    settle_s: Annotated[float, Number(0, _DAY_S)] = 600.0
    memory_bytes: Annotated[int, Number(0, 1_048_576 * _MEBIBYTE, "bytes", int)] = 67_108_864
    memory_ttl_s: Seconds = 30.0
    max_body_bytes: Annotated[int, Number(1, 256 * _MEBIBYTE, "bytes", int)] = 4_194_304
    origin_cache_control: Literal["obey", "ignore"] = "obey"
    secret: Annotated[Secret, String(Secret, is_secret=True)] = Secret()


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[redis]`: the tier shared by all replicas.

    Attributes:
        url: of Redis; secret because it may contain a password; empty: memory only.
        sentinel_user: at the Sentinels, which have users of their own; empty: the default one.
        sentinel_password: at the Sentinels; empty: none.
        prefix: of every key.
        timeout_s: of one operation, seconds.
        max_connections: bound of connections to Redis, in a Cluster to each primary.
        ca_file: PEM file with the certificates to trust over TLS; "" for those of the system.
        share_running: replicas share their fetches of records that may still change.
    """

    url: Annotated[Secret, String(redis_url_of, is_secret=True)] = Secret()
    sentinel_user: Annotated[str, String(rules.name_of)] = ""
    sentinel_password: Annotated[Secret, String(Secret, is_secret=True)] = Secret()
    prefix: Annotated[str, String(rules.prefix_of)] = "aosgw"
    timeout_s: Annotated[float, Number(0.001, 60)] = 0.1
    max_connections: Annotated[int, Number(1, 10_000, "connections", int)] = 32
    ca_file: CaFile = ""
    share_running: bool = True


class WaitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[wait]`: callers who ask to wait with `Prefer: wait=N`.

    Attributes:
        max_s: longest wait, seconds; 0: nobody waits.
        interval_s: between the starts of two fetches of what somebody waits for, seconds.
        max_interval_s: the same while nothing changes, seconds.
        max_waiting: bound of callers who wait.
    """

    max_s: Annotated[int, Number(0, 3_600, "seconds", int)] = 50
    interval_s: Annotated[float, Number(0.1, 3_600)] = 2.0
    max_interval_s: Annotated[float, Number(0.1, 3_600)] = 10.0
    max_waiting: Annotated[int, Number(0, 1_000_000, "callers", int)] = 10_000


class IamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[iam]`: the identity service that says whose a token is, and gives out tokens.

    Attributes:
        url: of IAM, https unless on loopback; "" for none.
        timeout_s: of one question, seconds.
        ca_file: PEM file with the certificates to trust; "" for those of the system.
        max_per_s: questions a second at most, those of all workers together.
    """

    url: Annotated[str, String(rules.iam_url_of, is_optional=True)] = ""
    timeout_s: Annotated[float, Number(0.1, 60)] = 2.0
    ca_file: CaFile = ""
    max_per_s: Annotated[float, Number(0.01, 1_000, "questions a second")] = 3.0


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[identity]`: who counts as the same caller.

    Attributes:
        by: "token": each token is a caller; "user": all tokens that IAM describes alike are one.
        verify_ttl_s: how long IAM's word on a token counts, seconds.
    """

    by: Literal["token", "user"] = "token"
    verify_ttl_s: Annotated[float, Number(1, 3_600)] = 300.0


class CredentialsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[credentials]`: the gateway's own, for requests that bring none.

    Attributes:
        source: "caller": there are none; "token-file", "password" or "access-key": where they come from.
        token_file: file with a token, read again when it changes.
        domain: name of the account that the user belongs to.
        user: name of the IAM user.
        password: of that user.
        project: name of the project that tokens are for.
        access_key: id of the key that signs requests.
        secret_key: secret of that key.
        security_token: goes with a temporary access key; empty for a permanent one.
        allow: methods and paths that may use them; `*` is one segment, HEAD counts as GET.
        client_token: what callers from the network send as `Authorization: Bearer`; empty: loopback, Unix
            sockets and client certificates alone.
        body_bytes: bound of all request bodies that are held to be signed.
    """

    source: Literal["caller", "token-file", "password", "access-key"] = "caller"
    token_file: Annotated[str, String(partial(rules.file_of, kind="file"), is_optional=True)] = ""
    domain: Annotated[str, String(rules.name_of)] = ""
    user: Annotated[str, String(rules.name_of)] = ""
    password: Annotated[Secret, String(Secret, is_secret=True)] = Secret()
    project: Annotated[str, String(rules.name_of)] = ""
    access_key: Annotated[str, String(rules.visible_of)] = ""
    secret_key: Annotated[Secret, String(rules.secret_of, is_secret=True)] = Secret()
    security_token: Annotated[Secret, String(rules.secret_of, is_secret=True)] = Secret()
    allow: Annotated[tuple[str, ...], StringList(rules.allowed_of)] = (
        "GET /v2/stacks/*",
        "GET /v2/stacks/*/actions/*",
    )
    client_token: Annotated[Secret, String(rules.secret_of, is_secret=True)] = Secret()
    body_bytes: Annotated[int, Number(0, 1_024 * _MEBIBYTE, "bytes", int)] = 33_554_432


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[log]`.

    Attributes:
        level: lowest level that is written.
        format: "auto": text on a terminal, else JSON.
        access: which requests get a line.
        sample: fraction of the hits that get a line; other requests follow `access`.
        caller: include a short keyed digest of the caller's credential in access lines.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    access: Literal["all", "errors", "off"] = "all"
    sample: Share = 1.0
    caller: bool = True


class TracingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[tracing]`: spans for OpenTelemetry; needs the extra `otel`.

    Attributes:
        endpoint: URL for spans as OTLP over HTTP; "" disables tracing.
        sample: fraction of the traces that is recorded; never one that its caller marks as not sampled.
    """

    endpoint: Annotated[str, String(rules.endpoint_of, is_optional=True)] = ""
    sample: Share = 0.1


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, one attribute for each section."""

    server: ServerConfig = ServerConfig()
    upstream: UpstreamConfig
    cache: CacheConfig = CacheConfig()
    redis: RedisConfig = RedisConfig()
    wait: WaitConfig = WaitConfig()
    iam: IamConfig = IamConfig()
    identity: IdentityConfig = IdentityConfig()
    credentials: CredentialsConfig = CredentialsConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()


SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = Config.__annotations__


def _rule(annotation: Any) -> Rule:
    """Return the rule of a field: from its type if that says all, else from its annotation."""
    if annotation is bool:
        return Boolean()
    if get_origin(annotation) is Literal:
        return Enum(get_args(annotation))
    rule: Rule = annotation.__metadata__[0]
    return rule


RULES: Final[Mapping[str, Rule]] = {
    f"{section}.{key}": _rule(annotation)
    for section, kind in SECTIONS.items()
    for key, annotation in kind.__annotations__.items()
}
"""The rules of all settings by "section.key", in order."""

FROM_FILE: Final = frozenset(
    name for name, rule in RULES.items() if isinstance(rule, String) and rule.is_secret
)
"""Settings that the environment may also give as the name of a file that holds them."""
