"""From the configuration to what each part of a gateway is made of."""

from gateway.config.address import TcpAddress
from gateway.config.model import Config
from gateway.core.caching.identity import TOKEN_FIELD
from gateway.core.caching.key import upstream_digest, upstream_identity
from gateway.core.caching.policy import Rules
from gateway.core.http.host import OwnHosts
from gateway.core.http.proxy_identity import ProxyIdentity, make_proxy_identity
from gateway.runtime.tls import redis_context
from gateway.store.redis_connection import RedisSettings, check_library

# How much longer a generation lives than anything that could be stored under it.
_GENERATION_MARGIN_S = 3600.0
_MINT_MARGIN_S = 60.0


def upstream_hop(config: Config) -> ProxyIdentity:
    """Return what the gateway says about itself and its upstream."""
    upstream = config.upstream
    digest = upstream_digest(identity(config))
    return make_proxy_identity(
        digest, upstream.url.authority, upstream.signed_hosts, identity_headers(config)
    )


def identity_headers(config: Config) -> tuple[bytes, ...]:
    """Return the lower-case names of the fields that tell who a caller is."""
    return (TOKEN_FIELD, *(name.lower().encode("ascii") for name in config.cache.identity_headers))


def identity(config: Config) -> bytes:
    """Return what tells this upstream from others in keys."""
    url = config.upstream.url
    return upstream_identity(url.scheme, url.host, url.port, url.base_path)


def policy_rules(config: Config) -> Rules:
    """Return the configured part of the storing rules."""
    cache = config.cache
    return Rules(
        shared=cache.scope == "shared",
        by_user=config.identity.by == "user",
        obey_origin=cache.origin_cache_control == "obey",
        terminal_phases=frozenset(cache.terminal_phases),
        access_ttl_s=cache.access_ttl_s,
        ttl_succeeded_s=cache.ttl_succeeded_s,
        ttl_failed_s=cache.ttl_failed_s,
        ttl_unsettled_s=cache.ttl_unsettled_s,
        ttl_running_s=cache.ttl_running_s,
        max_body_bytes=cache.max_body_bytes,
        identity_headers=frozenset(identity_headers(config)),
    )


def redis_settings(config: Config, rules: Rules) -> RedisSettings | None:
    """Return how to reach Redis, ``None`` without it.

    A file that cannot be used, or a redis-py that is not as expected, is a `ConfigError`.
    """
    if not config.redis.url:
        return None
    check_library()
    total_s = config.upstream.total_timeout_s
    return RedisSettings(
        url=config.redis.url.reveal(),
        timeout_s=config.redis.timeout_s,
        max_connections=config.redis.max_connections,
        generation_ttl_s=rules.longest_ttl_s + total_s + _GENERATION_MARGIN_S,
        mint_ttl_s=total_s + _MINT_MARGIN_S,
        tls=redis_context(config.redis),
        sentinel_user=config.redis.sentinel_user,
        sentinel_password=config.redis.sentinel_password.reveal(),
        # Otherwise the memory tier has what is asked for again soon.
        keeps_verified=not config.cache.memory_bytes,
    )


def own_hosts(config: Config) -> OwnHosts | None:
    """Return what ``Host`` may say where a web page must not be among the callers; ``None``: anything."""
    if not isinstance(config.server.listen, TcpAddress):
        return None
    return OwnHosts.of(
        config.server.admin_hosts, (config.upstream.url.authority, *config.upstream.signed_hosts)
    )
