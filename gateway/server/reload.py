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

LIVE: Final = frozenset(
    {
        "credentials.access_key",
        "credentials.client_token",
        "credentials.password",
        "credentials.secret_key",
        "credentials.security_token",
        "credentials.token_file",
        "iam.ca_file",
        "log.access",
        "log.caller",
        "log.level",
        "log.sample",
        "server.admin_token",
        "server.body_timeout_s",
        "server.drain_grace_s",
        "server.drain_timeout_s",
        "server.header_timeout_s",
        "server.keepalive_timeout_s",
        "server.max_connections",
        "server.max_connections_per_peer",
        "server.tls_cert",
        "server.tls_client_ca",
        "server.tls_key",
        "server.trusted_proxies",
        "upstream.ca_file",
        "upstream.client_cert",
        "upstream.client_key",
        "upstream.connect_timeout_s",
        "upstream.hold_back",
        "upstream.read_timeout_s",
        "wait.interval_s",
        "wait.max_interval_s",
        "wait.max_s",
        "wait.max_waiting",
    }
)
"""Settings that a reload applies; files are reread even if their names stay."""

FROM_ACTIVATION: Final = "LISTEN_FDS"
"""The source of settings that follow from sockets opened by systemd."""


class Change(msgspec.Struct, frozen=True):
    """What a reload changes.

    Attributes:
        config: the configuration from now on: live settings are new, others as they were.
        raw: the settings it is made of.
        changed: live settings that differ.
        deferred: other settings that differ; they take effect with the next start.
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
