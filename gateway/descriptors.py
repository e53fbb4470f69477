"""The limit of open descriptors: raised at the start, and told when it is too low for the configuration."""

from __future__ import annotations

import resource

from gateway.config import Config

# Refused connections that linger; admin ones; listeners, the loop's own, log, time zones, a look-up of names.
_OTHERS = 256 + 64 + 64


def raise_limit(config: Config) -> str | None:
    """Raise the soft limit as far as this process may.

    Args:
        config: tells how many connections there can be.

    Returns:
        One line that says what is too low and what to do; ``None`` when all is well.
    """
    needed = (
        config.server.max_connections
        # Slow callers may hold as many again.
        + 2 * config.upstream.max_connections
        + (config.redis.max_connections + 1 if config.redis.url else 0)
        + _OTHERS
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"at most {soft} descriptors can be open, {needed} may be needed: raise the hard limit of open files "
        f"(ulimit -Hn, LimitNOFILE) or lower server.max_connections = {config.server.max_connections}"
    )
