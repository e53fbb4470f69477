"""Loading the configuration: from its sources, checked, and masked for display."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from gateway.config.address import is_loopback
from gateway.config.errors import ConfigError, InvalidValue, shorten
from gateway.config.model import RULES, SECTIONS, Config, RedisConfig
from gateway.config.redis_url import masked_redis_url, redis_place
from gateway.config.secret import Secret
from gateway.config.sources import RawSetting, from_environment, from_flags, from_toml, variable_of


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of the settings; files are read anew each time.

    Attributes:
        path: of the TOML file, None for none.
        environ: like `os.environ`; see `gateway.config.sources.from_environment`.
        flags: command line settings by "section.key"; None for those not set.
    """

    path: str | None
    environ: Mapping[str, str]
    flags: Mapping[str, object]

    def read(self) -> dict[str, RawSetting]:
        """Return the settings by "section.key": flags override the environment, which overrides the file."""
        settings = from_toml(self.path) if self.path is not None else {}
        return settings | from_environment(self.environ) | from_flags(self.flags)


def load_config(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Read the configuration; see `Sources` for the arguments, `config_of` for errors."""
    return config_of(Sources(path=path, environ=environ, flags=flags).read())


def config_of(settings: Mapping[str, RawSetting]) -> Config:
    """Check settings and build the configuration from them; raise `ConfigError` for the first bad one."""
    if "upstream.url" not in settings:
        raise ConfigError(
            "upstream.url is missing; give serve --upstream URL, set AOS_GATEWAY_UPSTREAM__URL, "
            'or write url = "https://..." under [upstream] in the configuration file'
        )
    values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for name, setting in settings.items():
        section, _, key = name.partition(".")
        values[section][key] = _read(name, setting)
    sections: dict[str, Any] = {section: kind(**values[section]) for section, kind in SECTIONS.items()}
    config = Config(**sections)
    _check_together(config)
    return config


def masked(config: Config) -> dict[str, object]:
    """Return the configuration as plain data for display, by section and key.

    Secrets are "***" when set and "" when not; the Redis URL lacks user and password.
    """
    return {
        section: {
            key: masked_redis_url(value) if (section, key) == ("redis", "url") else _plain(value)
            for key, value in msgspec.structs.asdict(getattr(config, section)).items()
        }
        for section in SECTIONS
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
    """Reject settings that contradict each other."""
    server, cache = config.server, config.cache
    for one, other in (
        ("server.tls_cert", "server.tls_key"),
        ("server.tls_key", "server.tls_cert"),
        ("server.tls_client_ca", "server.tls_cert"),
        ("upstream.client_cert", "upstream.client_key"),
        ("upstream.client_key", "upstream.client_cert"),
    ):
        if (value := attrgetter(one)(config)) and not attrgetter(other)(config):
            raise ConfigError(f"{one} = {shorten(value)} needs {other}; name that file too")
    if server.listen == server.admin_listen and getattr(server.listen, "port", 1) != 0:
        raise ConfigError(
            f"server.admin_listen = {server.admin_listen} is server.listen too; give each its own address"
        )
    if cache.scope == "shared" and not is_loopback(server.listen) and not cache.allow_shared_on_network:
        raise ConfigError(
            f'cache.scope = "shared" on server.listen = {server.listen} gives stored records to everybody '
            "who can connect; use 127.0.0.1 or unix:/path, or set cache.allow_shared_on_network = true"
        )
    _check_sentinels(config.redis)
    if cache.memory_bytes == 0 and cache.ttl_running_s:
        raise ConfigError(
            "cache.ttl_running_s needs cache.memory_bytes, which is 0: only memory keeps these records; set "
            "cache.ttl_running_s = 0 or a memory size"
        )
    if cache.memory_bytes == 0 and not config.redis.url:
        raise ConfigError(
            "cache.memory_bytes = 0 without redis.url leaves no cache at all; set redis.url or a memory size"
        )
    if config.identity.by == "user":
        if not config.iam.url:
            raise ConfigError('identity.by = "user" needs iam.url, since IAM says whose a token is; set it')
        if cache.scope == "shared":
            raise ConfigError(
                'identity.by = "user" separates users, which cache.scope = "shared" does not; use one of them'
            )
    _check_credentials(config)


def _check_sentinels(redis: RedisConfig) -> None:
    if redis.sentinel_user and not redis.sentinel_password:
        raise ConfigError("redis.sentinel_user needs redis.sentinel_password; set it too")
    if redis.sentinel_password and redis_place(redis.url.reveal()).kind != "sentinel":
        raise ConfigError(
            "redis.sentinel_password is for Sentinels, which redis.url does not name; remove it, or write "
            "redis.url = redis+sentinel://host,host,host/SERVICE"
        )


_NEEDED = {
    "caller": (),
    "token-file": ("credentials.token_file",),
    "password": (
        "iam.url",
        "credentials.domain",
        "credentials.user",
        "credentials.password",
        "credentials.project",
    ),
    "access-key": ("credentials.access_key", "credentials.secret_key"),
}


def _check_credentials(config: Config) -> None:
    """Reject own credentials that are incomplete, or that strangers could use."""
    server, credentials = config.server, config.credentials
    for name in _NEEDED[credentials.source]:
        if not attrgetter(name)(config):
            raise ConfigError(f'credentials.source = "{credentials.source}" needs {name}; set it')
    is_private = is_loopback(server.listen) or bool(server.tls_cert)
    if credentials.client_token and not is_private:
        raise ConfigError(
            f"credentials.client_token on server.listen = {server.listen} would be sent unencrypted; set "
            "server.tls_cert and server.tls_key, or listen on 127.0.0.1 or unix:/path"
        )
    if credentials.source == "caller" or credentials.client_token or server.tls_client_ca:
        return
    if not is_loopback(server.listen):
        raise ConfigError(
            f'credentials.source = "{credentials.source}" on server.listen = {server.listen} would serve '
            "everybody who can connect; use 127.0.0.1 or unix:/path, or set credentials.client_token or "
            "server.tls_client_ca"
        )
    for name in ("server.proxy_protocol", "server.trusted_proxies"):
        if attrgetter(name)(config):
            raise ConfigError(
                f'credentials.source = "{credentials.source}" with {name} would serve everybody who can '
                "connect to the proxy; set credentials.client_token or server.tls_client_ca"
            )


def admin_token(environ: Mapping[str, str]) -> Secret:
    """Return the admin token in the environment, for a client of the admin address; empty without one."""
    name = "server.admin_token"
    variable = variable_of(name)
    settings = from_environment({key: value for key, value in environ.items() if key.startswith(variable)})
    if name not in settings:
        return Secret()
    token = _read(name, settings[name])
    assert isinstance(token, Secret)
    return token


def _read(name: str, setting: RawSetting) -> object:
    try:
        return RULES[name].read(setting.value, is_text=setting.is_text)
    except InvalidValue as exc:
        raise ConfigError(f"{name} = {exc.value} (from {setting.source}) {exc.remedy}") from exc
