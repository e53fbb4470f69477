"""The limit of open files: raised at the start, logged when too low for the configuration."""

import logging
import resource

from gateway.config.model import Config, ServerConfig

_log = logging.getLogger("gateway")
# Rejected connections that linger; admin connections; listeners, event loop, log, time zones, DNS.
_OTHERS = 256 + 64 + 64


def raise_limit(config: Config) -> None:
    """Raise the soft limit as far as the configuration needs and the hard limit allows."""
    needed = _needed(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))


def log_limit(config: Config) -> None:
    """Log a limit that is too low for the configuration.

    A warning only if `server.max_connections` was set: its default is meant as an upper bound.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed, connections = _needed(config), config.server.max_connections
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    default = ServerConfig().max_connections
    is_asked_for = connections != default or soft < needed - default
    _log.log(
        logging.WARNING if is_asked_for else logging.INFO,
        "at most %d descriptors can be open, %d may be needed: raise the hard limit of open files "
        "(ulimit -Hn, LimitNOFILE) or lower server.max_connections = %d",
        *(soft, needed, connections),
    )


def _needed(config: Config) -> int:
    # Slow callers may hold as many upstream connections again.
    upstream = 2 * config.upstream.max_connections
    redis = config.redis.max_connections + 1 if config.redis.url else 0
    return config.server.max_connections + upstream + redis + _OTHERS
