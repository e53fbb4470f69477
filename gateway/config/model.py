"""The configuration: what it holds, how it is read, how it is shown."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.config.address import (
    OWNER_ONLY,
    Address,
    Mode,
    TcpAddress,
    UnixAddress,
    UpstreamUrl,
    is_loopback,
    parse_address,
)
from gateway.config.errors import ConfigError, InvalidValue, cannot_listen, shorten
from gateway.config.redis_url import masked_redis_url
from gateway.config.rules import RULES
from gateway.config.secret import Secret
from gateway.config.sources import RawSetting, from_environment, from_flags, from_toml, sections, variable_of

__all__ = [
    "Address",
    "CacheConfig",
    "Config",
    "ConfigError",
    "LogConfig",
    "RedisConfig",
    "Secret",
    "ServerConfig",
    "Sources",
    "TcpAddress",
    "TracingConfig",
    "UnixAddress",
    "UpstreamConfig",
    "UpstreamUrl",
    "admin_token",
    "cannot_listen",
    "config_of",
    "is_loopback",
    "load_config",
    "masked",
    "pack",
    "parse_address",
    "unpack",
]

Scope = Literal["caller", "shared"]
OriginCacheControl = Literal["obey", "ignore"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
AccessLog = Literal["all", "errors", "off"]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[server]`: the listeners and what bounds a connection.

    Attributes:
        listen: where callers connect.
        listen_mode: rights of the file of a Unix socket for callers.
        admin_listen: where operators connect.
        admin_listen_mode: rights of the file of a Unix socket for operators.
        admin_token: opens the protected admin paths to peers from the network; empty: to nobody.
        admin_hosts: names that a Host field on the admin address may have besides loopback and IP literals.
        workers: processes that share the listener; 0: one for each core that may be used.
        header_timeout_s: from the first byte of a request to the end of its head, seconds.
        body_timeout_s: between two bytes of a request body, or taken of an answer, seconds.
        keepalive_timeout_s: how long an idle connection stays open, seconds.
        max_header_bytes: bound of a request's whole head.
        max_connections: bound of open connections from callers.
        max_connections_per_peer: bound of open connections from one address; 0 sets none.
        proxy_protocol: each connection begins with a header of the PROXY protocol, version 1 or 2.
        trusted_proxies: addresses and networks whose word about their callers is taken; "unix": Unix sockets.
        drain_grace_s: how long to go on accepting after `/readyz` turned false, seconds.
        drain_timeout_s: how long requests under way may take when stopping, seconds.
        fast_lane: answer hits in memory without parsing what is plain.
        tls_cert: PEM file with the certificate chain for callers over TLS; "" for plain connections.
        tls_key: PEM file with its key.
        tls_client_ca: PEM file with the authorities of callers' certificates; "" asks for none.
    """

    listen: Address = TcpAddress(host="127.0.0.1", port=8080)
    listen_mode: Mode = OWNER_ONLY
    admin_listen: Address = TcpAddress(host="127.0.0.1", port=9901)
    admin_listen_mode: Mode = OWNER_ONLY
    admin_token: Secret = Secret()
    admin_hosts: tuple[str, ...] = ()
    workers: int = 1
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    max_header_bytes: int = 65_536
    max_connections: int = 20_000
    max_connections_per_peer: int = 0
    proxy_protocol: bool = False
    trusted_proxies: tuple[str, ...] = ()
    drain_grace_s: float = 0.0
    drain_timeout_s: float = 25.0
    fast_lane: bool = True
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[upstream]`: the AOS behind the gateway.

    Attributes:
        url: scheme, host, port and base path of AOS; the one key without a default.
        connect_timeout_s: until a connection stands, TLS included, seconds.
        read_timeout_s: to the first byte of an answer and between two, seconds.
        total_timeout_s: of one fetch of an execution record, seconds.
        max_connections: bound of connections to the upstream.
        max_waiting: bound of requests that wait for one of them.
        connection_max_age_s: when a pooled connection is replaced, seconds.
        signed_hosts: lower-case `host` or `host:port` that a signed request may name besides the upstream's.
        ca_file: PEM file with the certificates to trust; "" for those of the system.
        client_cert: PEM file with the certificate chain to show to an https upstream; "" for none.
        client_key: PEM file with its key.
        server_name: what the upstream's certificate has to be for; "" for the host of the URL.
    """

    url: UpstreamUrl
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 60.0
    max_connections: int = 256
    max_waiting: int = 1_024
    connection_max_age_s: float = 300.0
    signed_hosts: tuple[str, ...] = ()
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[cache]`: what is stored, for whom, for how long.

    Attributes:
        scope: "caller": an entry belongs to one credential; "shared": to all who may connect.
        allow_shared_on_network: accept "shared" on an address that others can reach.
        access_ttl_s: longest life of a caller's entry, seconds.
        identity_headers: fields that tell callers apart besides X-Auth-Token, which always does.
        terminal_phases: phases whose records may be stored, compared exactly.
        ttl_succeeded_s: life of a Succeeded record, seconds.
        ttl_failed_s: life of a record in any other terminal phase, seconds.
        ttl_unsettled_s: life of a record that might still change, seconds.
        settle_s: how long after a write a stack's records count as unsettled, seconds.
        memory_bytes: bound of the memory tier; 0 switches it off.
        memory_ttl_s: life of a copy in memory while Redis is configured, seconds.
        max_body_bytes: largest record that is stored.
        origin_cache_control: whether the upstream's Cache-Control is obeyed.
        secret: keys the digests and tags of entries; equal on all replicas; empty for none.
    """

    scope: Scope = "caller"
    allow_shared_on_network: bool = False
    access_ttl_s: float = 300.0
    identity_headers: tuple[str, ...] = (
        "X-Project-Id",
        "X-Domain-Id",
        "X-Security-Token",
        "X-Subject-Token",
        "X-Enterprise-Project-Id",
        "X-Apig-AppCode",
        "Cookie",
    )
    terminal_phases: tuple[str, ...] = ("Succeeded", "Failed", "Cancelled", "ForceCancelled")
    ttl_succeeded_s: float = 86_400.0
    ttl_failed_s: float = 3_600.0
    ttl_unsettled_s: float = 30.0
    settle_s: float = 600.0
    memory_bytes: int = 67_108_864
    memory_ttl_s: float = 30.0
    max_body_bytes: int = 4_194_304
    origin_cache_control: OriginCacheControl = "obey"
    secret: Secret = Secret()


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[redis]`: the tier that replicas share.

    Attributes:
        url: where Redis is; secret because it may hold a password; empty: memory alone.
        prefix: starts every key.
        timeout_s: of one operation, seconds.
        max_connections: bound of connections to Redis.
        ca_file: PEM file with the certificates to trust over TLS; "" for those of the system.
    """

    url: Secret = Secret()
    prefix: str = "aosgw"
    timeout_s: float = 0.1
    max_connections: int = 32
    ca_file: str = ""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[log]`.

    Attributes:
        level: least severe level that is written.
        format: how lines look; "auto": text on a terminal, else JSON.
        access: which requests get a line.
        sample: which part of the hits gets a line; anything else gets one as `access` says.
        caller: name the caller in access lines by a short keyed digest of the credential.
    """

    level: LogLevel = "info"
    format: LogFormat = "auto"
    access: AccessLog = "all"
    sample: float = 1.0
    caller: bool = True


class TracingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[tracing]`: spans for OpenTelemetry; needs the extra `otel`.

    Attributes:
        endpoint: URL to which spans go as OTLP over HTTP; "" makes none.
        sample: which part of the traces is recorded; never one whose caller says that it is not.
    """

    endpoint: str = ""
    sample: float = 0.1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration, one attribute a section."""

    upstream: UpstreamConfig
    server: ServerConfig = ServerConfig()
    cache: CacheConfig = CacheConfig()
    redis: RedisConfig = RedisConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where the settings are given; each reading looks into the files anew.

    Attributes:
        path: of the TOML file, None for none.
        environ: like `os.environ`; see `gateway.config.sources.from_environment`.
        flags: command line settings by "section.key"; None means not given.
    """

    path: str | None
    environ: Mapping[str, str]
    flags: Mapping[str, object]

    def read(self) -> dict[str, RawSetting]:
        """Return the settings by "section.key": flags beat the environment, which beats the file.

        Raises:
            ConfigError: one line that names the key and the remedy.
        """
        given = from_toml(self.path) if self.path is not None else {}
        return given | from_environment(self.environ) | from_flags(self.flags)


def load_config(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Read the configuration: what is given beats the defaults; see `Sources` for the arguments.

    Raises:
        ConfigError: one line that names the key and the remedy.
    """
    return config_of(Sources(path=path, environ=environ, flags=flags).read())


def config_of(given: Mapping[str, RawSetting]) -> Config:
    """Check settings and make the configuration of them.

    Raises:
        ConfigError: one line that names the key and the remedy.
    """
    if "upstream.url" not in given:
        raise ConfigError(
            "upstream.url is missing; give serve --upstream URL, set AOS_GATEWAY_UPSTREAM__URL, "
            'or write url = "https://..." under [upstream] in the configuration file'
        )
    values: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for name, setting in given.items():
        section, _, key = name.partition(".")
        values[section][key] = _read(name, setting)
    config = Config(
        server=ServerConfig(**values["server"]),
        upstream=UpstreamConfig(**values["upstream"]),
        cache=CacheConfig(**values["cache"]),
        redis=RedisConfig(**values["redis"]),
        log=LogConfig(**values["log"]),
        tracing=TracingConfig(**values["tracing"]),
    )
    _check_together(config)
    return config


def pack(given: Mapping[str, RawSetting]) -> bytes:
    """Return settings as bytes for a process of our own; they hold the secrets."""
    return msgspec.msgpack.encode(given)


def unpack(packed: bytes) -> dict[str, RawSetting]:
    """Return the settings in packed bytes."""
    return msgspec.msgpack.decode(packed, type=dict[str, RawSetting])


def masked(config: Config) -> dict[str, object]:
    """Return the configuration as plain data for people to read.

    Returns:
        Sections of keys; secrets are "***" when set and "" when not, the Redis URL lacks user and password.
    """
    return {
        section: {
            key: masked_redis_url(value) if (section, key) == ("redis", "url") else _plain(value)
            for key, value in msgspec.structs.asdict(getattr(config, section)).items()
        }
        for section in sections()
    }


def _plain(value: object) -> object:
    match value:
        case bool() | int() | float() | str():
            return value
        case tuple():
            return list(value)
        case _:
            return str(value)


def _check_together(config: Config) -> None:
    """Refuse settings that are fine alone and impossible together."""
    server, cache = config.server, config.cache
    for one, other in (
        ("server.tls_cert", "server.tls_key"),
        ("server.tls_key", "server.tls_cert"),
        ("server.tls_client_ca", "server.tls_cert"),
        ("upstream.client_cert", "upstream.client_key"),
        ("upstream.client_key", "upstream.client_cert"),
    ):
        if _value(config, one) and not _value(config, other):
            raise ConfigError(f"{one} = {shorten(_value(config, one))} needs {other}; name that file too")
    if server.listen == server.admin_listen and getattr(server.listen, "port", 1) != 0:
        raise ConfigError(
            f"server.admin_listen = {server.admin_listen} is server.listen too; give each its own address"
        )
    if cache.scope == "shared" and not is_loopback(server.listen) and not cache.allow_shared_on_network:
        raise ConfigError(
            f'cache.scope = "shared" on server.listen = {server.listen} gives stored records to everybody '
            "who can connect; use 127.0.0.1 or unix:/path, or set cache.allow_shared_on_network = true"
        )
    if cache.memory_bytes == 0 and not config.redis.url:
        raise ConfigError(
            "cache.memory_bytes = 0 without redis.url leaves no cache at all; set redis.url or a memory size"
        )


def _value(config: Config, name: str) -> object:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def admin_token(environ: Mapping[str, str]) -> Secret:
    """Return the admin token of the environment, for a client of the admin address; empty when there is none.

    Raises:
        ConfigError: it can't be read or used.
    """
    name = "server.admin_token"
    variable = variable_of(name)
    found = from_environment({key: value for key, value in environ.items() if key.startswith(variable)})
    if name not in found:
        return Secret()
    token = _read(name, found[name])
    assert isinstance(token, Secret)
    return token


def _read(name: str, setting: RawSetting) -> object:
    try:
        return RULES[name].read(setting.value, is_text=setting.is_text)
    except InvalidValue as exc:
        raise ConfigError(f"{name} = {exc.value} (from {setting.source}) {exc.remedy}") from exc
