"""Live settings, and rereading the configuration."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Final

import msgspec

from gateway.config.load import Sources, config_of
from gateway.config.model import RULES, Config
from gateway.config.redis_url import same_redis
from gateway.config.sources import RawSetting
from gateway.runtime.tls import check_files

_LIVE: Final = {
    "credentials": ("access_key", "client_token", "password", "secret_key", "security_token", "token_file"),
    "iam": ("ca_file",),
    "log": ("access", "caller", "level", "sample"),
    "redis": ("sentinel_password", "sentinel_user"),
    "server": (
        "admin_token",
        "body_timeout_s",
        "drain_grace_s",
        "drain_timeout_s",
        "header_timeout_s",
        "keepalive_timeout_s",
        "max_connections",
        "max_connections_per_peer",
        "tls_cert",
        "tls_client_ca",
        "tls_key",
        "trusted_proxies",
    ),
    "upstream": ("ca_file", "client_cert", "client_key", "connect_timeout_s", "hold_back", "read_timeout_s"),
    "wait": ("interval_s", "max_interval_s", "max_s", "max_waiting"),
}
LIVE: Final = frozenset(f"{section}.{key}" for section, keys in _LIVE.items() for key in keys)
"""Settings that a reload applies; files are reread even if their names stay."""

FROM_ACTIVATION: Final = "LISTEN_FDS"
"""The source of settings that follow from sockets opened by systemd."""


class Change(msgspec.Struct, frozen=True):
    """The configuration from now on, and the settings it is made of: live ones are new, others as they were.

    Names the live settings that have changed, and the deferred ones, which take effect with the next start.
    """

    config: Config
    raw: dict[str, RawSetting]
    changed: tuple[str, ...]
    deferred: tuple[str, ...]


def reread(sources: Sources, raw: Mapping[str, RawSetting]) -> Change:
    """Read the settings again and compare them with those in use; raise `ConfigError` if they are invalid."""
    fresh = sources.read()
    fresh |= {name: setting for name, setting in raw.items() if setting.source == FROM_ACTIVATION}
    new, old = config_of(fresh), config_of(raw)
    live = LIVE
    if same_redis(old.redis.url, new.redis.url):
        # Another password for the same Redis.
        live |= {"redis.url"}
    merged = {name: setting for name, setting in raw.items() if name not in live}
    merged |= {name: setting for name, setting in fresh.items() if name in live}
    config = config_of(merged)
    check_files(config)
    differing = [name for name in RULES if attrgetter(name)(old) != attrgetter(name)(new)]
    return Change(
        config=config,
        raw=merged,
        changed=tuple(name for name in differing if name in live),
        deferred=tuple(name for name in differing if name not in live),
    )


class Reloads(msgspec.Struct):
    """Counts reloads; the attributes are named as in the catalogue of metrics."""

    config_reloads: int = 0
    config_reload_failures: int = 0
    config_last_reload_success: bool = True

    def count(self, *, is_done: bool) -> None:
        self.config_reloads += is_done
        self.config_reload_failures += not is_done
        self.config_last_reload_success = is_done
