"""The configuration: its sources, its errors, and that secrets stay masked."""

import itertools
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.address import Mode, TcpAddress, UnixAddress
from gateway.config.errors import ConfigError
from gateway.config.load import admin_token, load_config, masked
from gateway.config.model import (
    FROM_FILE,
    RULES,
    CacheConfig,
    Config,
    CredentialsConfig,
    IamConfig,
    IdentityConfig,
    LogConfig,
    RedisConfig,
    ServerConfig,
    TracingConfig,
    UpstreamConfig,
    WaitConfig,
)
from gateway.config.secret import Secret
from gateway.config.sources import unused_variables, variable_of
from gateway.config.types import Boolean, Enum, Number
from gateway.core.caching.policy import IN_PROGRESS
from tests.testbed.tls import Authority

_ROOT = Path(__file__).parents[2]
_URL = {"upstream.url": "http://aos"}
_VARIABLES = {"AOS_GATEWAY_UPSTREAM__URL": "http://aos"}
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "upstream": UpstreamConfig,
    "cache": CacheConfig,
    "redis": RedisConfig,
    "wait": WaitConfig,
    "iam": IamConfig,
    "identity": IdentityConfig,
    "credentials": CredentialsConfig,
    "log": LogConfig,
    "tracing": TracingConfig,
}

TomlFile = Callable[[str], str]


@pytest.fixture
def toml(tmp_path: Path) -> TomlFile:
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        return str(path)

    return write


def _from_flags(**flags: object) -> Config:
    return load_config(None, {}, _URL | {name.replace("__", "."): value for name, value in flags.items()})


def _error_of(path: str | None = None, environ: dict[str, str] | None = None, /, **flags: object) -> str:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, _URL | named)
    line = str(caught.value)
    assert line.isprintable()
    return line


# What the file with all keys says, and what the code says.


def _documented() -> dict[str, Any]:
    """The keys of config/gateway.toml with the values there, the commented upstream.url included."""
    text = (_ROOT / "config" / "gateway.toml").read_text()
    document = tomllib.loads(re.sub(r"^# (url = )", r"\1", text, flags=re.MULTILINE))
    return {f"{section}.{key}": value for section, table in document.items() for key, value in table.items()}


def test_every_key_stands_in_the_documented_file_in_order_and_no_other() -> None:
    in_code = [
        f"{section}.{key}" for section, struct in _SECTIONS.items() for key in struct.__struct_fields__
    ]
    assert list(_documented()) == in_code
    assert list(RULES) == in_code


def test_every_documented_value_is_the_default() -> None:
    config = _from_flags()
    defaults = masked(config)
    for name, value in _documented().items():
        section, _, key = name.partition(".")
        if name != "upstream.url":
            assert defaults[section][key] == value, name  # type: ignore[index]


def test_every_documented_key_has_a_comment() -> None:
    lines = (_ROOT / "config" / "gateway.toml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"[a-z_]+ = ", line):
            assert before.startswith("# "), line


def test_the_documented_files_load() -> None:
    path = str(_ROOT / "config" / "gateway.toml")
    assert load_config(path, {}, _URL) == _from_flags()
    sidecar = load_config(str(_ROOT / "config" / "gateway.sidecar.toml"), {}, _URL)
    assert sidecar.cache.scope == "shared"
    assert sidecar != _from_flags()


def test_each_default_satisfies_its_own_rule() -> None:
    config = _from_flags()
    for name, rule in RULES.items():
        section, _, key = name.partition(".")
        value = getattr(getattr(config, section), key)
        plain = value if isinstance(value, bool | int | float | tuple) else str(value)
        assert rule.read(plain, is_text=False) == value, name


# Where settings come from.


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(toml: TomlFile) -> None:
    path = toml(
        '[server]\nlisten = "127.0.0.1:1"\nadmin_listen = "127.0.0.1:2"\nmax_connections = 3\n'
        '[upstream]\nurl = "http://file"\n'
    )
    environ = {
        "AOS_GATEWAY_SERVER__LISTEN": "127.0.0.1:11",
        "AOS_GATEWAY_SERVER__ADMIN_LISTEN": "127.0.0.1:12",
    }
    config = load_config(path, environ, {"server.listen": "127.0.0.1:21", "upstream.url": None})
    assert config.server.listen == TcpAddress(host="127.0.0.1", port=21)
    assert config.server.admin_listen == TcpAddress(host="127.0.0.1", port=12)
    assert config.server.max_connections == 3
    assert config.server.max_header_bytes == 65536
    assert config.upstream.url.host == "file"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.listen", "unix:/run/a.sock", UnixAddress(path="/run/a.sock")),
        ("server.listen_mode", "0660", Mode(0o660)),
        ("server.admin_listen_mode", "622", Mode(0o622)),
        ("server.admin_token", "t0ken", Secret("t0ken")),
        ("server.admin_hosts", "A.example, b.example", ("a.example", "b.example")),
        (
            "server.trusted_proxies",
            "10.0.0.0/8,2001:DB8::1,::ffff:192.0.2.0/120,unix",
            ("10.0.0.0/8", "2001:db8::1", "192.0.2.0/24", "unix"),
        ),
        ("server.drain_grace_s", "0", 0.0),
        ("server.header_timeout_s", " 1.5 ", 1.5),
        ("server.keepalive_timeout_s", "1e2", 100.0),
        ("upstream.max_waiting", "0", 0),
        ("upstream.signed_hosts", "AOS.example:443", ("aos.example:443",)),
        ("upstream.signed_hosts", "", ()),
        ("cache.allow_shared_on_network", "TRUE", True),
        ("cache.allow_shared_on_network", "false", False),
        ("cache.terminal_phases", "Succeeded,RollbackSucceeded", ("Succeeded", "RollbackSucceeded")),
        ("cache.identity_headers", "x-project-id, X-Auth-Token", ("x-project-id",)),
        ("cache.identity_headers", "", ()),
        ("cache.origin_cache_control", "ignore", "ignore"),
        ("cache.secret", " spaces and ünïcode ", Secret(" spaces and ünïcode ")),
        ("redis.url", "redis://:p@h", Secret("redis://:p@h")),
        ("redis.url", "", Secret()),
        ("redis.timeout_s", ".25", 0.25),
        ("log.access", "errors", "errors"),
        ("log.format", "json", "json"),
        ("log.sample", "0.01", 0.01),
    ],
)
def test_the_environment_is_read_by_the_type_of_the_key(name: str, text: str, value: object) -> None:
    config = load_config(None, {variable_of(name): text}, _URL)
    section, _, key = name.partition(".")
    found = getattr(getattr(config, section), key)
    assert found == value
    assert type(found) is type(value)


def test_a_whole_number_in_the_file_is_a_fine_time(toml: TomlFile) -> None:
    config = load_config(toml("[cache]\naccess_ttl_s = 60\n"), {}, _URL)
    assert config.cache.access_ttl_s == 60.0
    assert type(config.cache.access_ttl_s) is float


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"one two", "one two"),
        (b"one\n", "one"),
        (b"one\r\n", "one"),
        (b"one\n\n", "one\n"),
        (b" one ", " one "),
    ],
)
def test_a_secret_file_loses_one_trailing_newline(tmp_path: Path, content: bytes, secret: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    config = load_config(None, {"AOS_GATEWAY_CACHE__SECRET_FILE": str(file)}, _URL)
    assert config.cache.secret.reveal() == secret


def test_each_secret_key_can_come_from_a_file_and_beats_the_configuration_file(
    tmp_path: Path, toml: TomlFile
) -> None:
    environ = {}
    for name, value in (
        ("REDIS__URL", "redis://:p@h"),
        ("SERVER__ADMIN_TOKEN", "t0ken"),
        ("CACHE__SECRET", "s"),
    ):
        (tmp_path / name).write_text(value + "\n")
        environ[f"AOS_GATEWAY_{name}_FILE"] = str(tmp_path / name)
    config = load_config(toml('[cache]\nsecret = "of the file"\n'), environ, _URL)
    assert config.redis.url.reveal() == "redis://:p@h"
    assert config.server.admin_token.reveal() == "t0ken"
    assert config.cache.secret.reveal() == "s"
    assert admin_token(environ).reveal() == "t0ken"


def test_the_admin_token_of_a_client_is_read_without_checking_other_variables() -> None:
    assert (
        admin_token({"AOS_GATEWAY_SERVER__ADMIN_TOKEN": "t", "AOS_GATEWAY_OTHER__KEY": "x"}).reveal() == "t"
    )
    assert not admin_token({})


@pytest.mark.parametrize(
    "variable",
    [
        "AOS_GATEWAY_SERVICE_HOST",
        "AOS_GATEWAY_SERVICE_PORT_HTTP",
        "AOS_GATEWAY_PORT",
        "AOS_GATEWAY_PORT_8080_TCP_ADDR",
        "AOS_GATEWAY_ADMIN_PORT_9901_TCP_PROTO",
    ],
)
def test_what_kubernetes_sets_for_a_service_of_that_name_is_left_alone(variable: str) -> None:
    assert load_config(None, {variable: "10.0.0.1"}, _URL) == _from_flags()


def test_other_variables_are_left_alone() -> None:
    assert load_config(None, {"AOS_TOKEN": "x", "aos_gateway_x": "y", "PATH": "/bin"}, _URL) == _from_flags()


# What is rejected.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server\n", "configuration file 'FILE' is not TOML: "),
        (f"[cache]\nsettle_s = 1{'0' * 9000}\n", "configuration file 'FILE' is not TOML: "),
        (f"x = {'[' * 9000}\n", "configuration file 'FILE' is "),
        ("x = 1\n", "key 'x' in FILE is outside a section; config/gateway.toml lists all keys"),
        ('scope = "shared"\n', "key 'scope' in FILE is outside a section; did you mean cache.scope?"),
        ("[[cache]]\n", "key 'cache' in FILE is outside a section; did you mean "),
        (
            "redis = 'redis://:s3cret@h'\n",
            "key 'redis' in FILE is outside a section; did you mean redis.url or",
        ),
        (
            "[other]\n",
            "unknown section [other] in FILE; there are server or upstream or cache or redis or wait or iam",
        ),
        ("[Sever]\n", "unknown section [Sever] in FILE; did you mean [server]?"),
        ("[cache]\nsecrt = 's3cret'\n", "unknown key cache.secrt in FILE; did you mean cache.secret?"),
        ("[server]\nscope = 'shared'\n", "unknown key server.scope in FILE; did you mean cache.scope?"),
        (
            "[server.spdy]\nport = 'x'\n",
            "unknown key server.spdy in FILE; config/gateway.toml lists all keys",
        ),
        ("[server]\nlisten = 8080\n", "server.listen = 8080 (from FILE) is not a text; write it in quotes"),
        ("[cache]\nsecret = 5\n", "cache.secret = *** (from FILE) is not a text; write it in quotes"),
        ("[server]\nworkers = '1'\n", "server.workers = '1' (from FILE) is not a whole number; write"),
        ("[server]\nworkers = 1.0\n", "server.workers = 1.0 (from FILE) is not a whole number; write"),
        ("[server]\nworkers = true\n", "server.workers = True (from FILE) is not a whole number; write"),
        ("[cache]\nsettle_s = true\n", "cache.settle_s = True (from FILE) is not a number; write"),
        ("[cache]\nsettle_s = nan\n", "cache.settle_s = nan (from FILE) is out of range; write"),
        ("[cache]\nsettle_s = '600s'\n", "cache.settle_s = '600s' (from FILE) is not a number; write"),
        (
            "[cache]\nsettle_s = 2024-01-01\n",
            "cache.settle_s = datetime.date(2024, 1, 1) (from FILE) is not a",
        ),
        (
            f"[cache]\nsettle_s = 1{'0' * 400}\n",
            f"cache.settle_s = 1{'0' * 79}... (from FILE) is out of range; write",
        ),
        (
            f"[cache]\nsettle_s = 0x{'f' * 9000}\n",
            "cache.settle_s = a int too long to show (from FILE) is out",
        ),
        ("[server]\nproxy_protocol = 1\n", "server.proxy_protocol = 1 (from FILE) is neither true nor false"),
        ("[log]\ncaller = 'true'\n", "log.caller = 'true' (from FILE) is neither true nor false; write one"),
        (
            "[cache]\nterminal_phases = 'Failed'\n",
            "cache.terminal_phases = 'Failed' (from FILE) is not a list; write [",
        ),
        (
            "[cache]\nterminal_phases = [1]\n",
            "cache.terminal_phases = 1 (from FILE) is not a text; write each",
        ),
    ],
)
def test_a_bad_file_gets_one_line_with_key_and_remedy(toml: TomlFile, text: str, message: str) -> None:
    path = toml(text)
    line = _error_of(path).replace(path, "FILE")
    assert line.startswith(message)
    assert "s3cret" not in line
    assert len(line) < 500


_NO_FILE = "can't be read (No such file or directory); name a readable PEM file"
_NOT_SENT = "does not reach the upstream as the caller sent it; remove it"
_IN_PROGRESS = "is a phase in progress, whose records still change; remove it"

# Bad values of each key whose type alone does not say what is bad, and how the message goes on.
_BAD: dict[str, dict[str, str]] = {
    "server.listen": {
        "8080": "has no port; write host:port, [v6]:port, :port for all interfaces, or unix:/path",
    },
    "server.listen_mode": {
        "rw-rw----": 'is no file mode; write three octal digits, like "0660"',
        "0690": "is no file mode",
        "1660": "is no file mode",
    },
    "server.admin_listen": {"host:x": "has a bad port; write a number from 0 to 65535"},
    "server.admin_listen_mode": {"0444": 'lets nobody connect, which needs write permission; write "0600"'},
    "server.admin_token": {
        "s3cret with blanks": "holds a blank, control or non-ASCII character; use printable ASCII",
        "s3crét": "holds a blank, control or non-ASCII character",
        "s3cret\x7f": "holds a blank, control or non-ASCII character",
    },
    "server.admin_hosts": {
        "a.example:80": "has a bad host; write the name alone, without scheme and port",
        "a.example,,b.example": "is empty; write the name alone",
        "a.example,A.example": "is in the list twice; remove one",
        ",".join(f"h{i}" for i in range(65)): "is too long; write at most 64",
    },
    "server.trusted_proxies": {
        "10.0.0.1/8": 'is no address or network; write it like "10.0.0.1", "10.0.0.0/8" or "unix"',
        "lb.example": "is no address or network",
        "10.0.0.1,::ffff:10.0.0.1": "is in the list twice",
    },
    "server.tls_cert": {"/nowhere/cert.pem": _NO_FILE},
    "server.tls_key": {"/": "can't be read (Is a directory); name a readable PEM file"},
    "server.tls_client_ca": {"/nowhere/ca.pem": _NO_FILE},
    "upstream.url": {"aos": "is not a URL; write http://host:port", "": "is not a URL"},
    "upstream.signed_hosts": {"https://aos": "has a bad"},
    "upstream.ca_file": {"/nowhere/ca.pem": _NO_FILE},
    "upstream.client_cert": {"/nowhere/cert.pem": _NO_FILE},
    "upstream.client_key": {"/nowhere/key.pem": _NO_FILE},
    "upstream.server_name": {"aos:443": "has a bad host; write the name alone, without scheme and port"},
    "cache.identity_headers": {
        "X Project": "is not a header name; write a name like X-Project-Id",
        "X-Project-Id,": "is not a header name",
        "Authorization": "always bypasses the cache, so it can't separate callers; remove it",
        **dict.fromkeys(("Proxy-Authorization", "X_Request_Id", "Via", "Prefer", "Range"), _NOT_SENT),
        **dict.fromkeys(("If-None-Match", "Accept-Encoding", "X-HTTP-Method-Override"), _NOT_SENT),
        "X_Auth_Token": "looks like X-Auth-Token, which always counts; remove it",
        "X-Project-Id,x-project-id": "is in the list twice",
        "X-Project-Id,X_Project_Id": "differs from another name in the list by - and _ alone; remove one",
    },
    "cache.terminal_phases": {
        "": 'is empty, so nothing could be stored; name at least "Succeeded"',
        "Succeeded,": 'is not a phase; write it as AOS does, like "Succeeded"',
        "Suc ceeded": "is not a phase",
        "Succeeded,Succeeded": "is in the list twice",
        **{f"Succeeded,{phase}": _IN_PROGRESS for phase in (*sorted(IN_PROGRESS), "PAUSED", "Deleting")},
    },
    "cache.secret": {"s3cret\udcff": "is not valid UTF-8; write it as UTF-8 text"},
    "redis.url": {
        "s3cret": "is not a Redis URL; write redis://host:port/db",
        "redis://s3cret@h": "has no password before the @",
        "redis://:s3cret@h:x": "has a bad port",
    },
    "redis.prefix": {
        "": "is not a prefix; write 1 to 64 of A-Z a-z 0-9 _ . : -",
        "a{b}": "is not a prefix",
        "a" * 65: "is not a prefix",
        "a\n": "is not a prefix",
    },
    "redis.ca_file": {"/nowhere/ca.pem": _NO_FILE},
    "iam.url": {
        "http://iam.example": "would send tokens unencrypted; write https://",
        "https://user:s3cret@iam.example": "holds userinfo",
        "iam.example": "is not a URL",
    },
    "iam.ca_file": {"/nowhere/ca.pem": _NO_FILE},
    "credentials.token_file": {"/nowhere/token": _NO_FILE.replace("PEM file", "file")},
    **{
        f"credentials.{key}": {" a": "is not a name; write it as IAM shows it", "a\n": "is not a name"}
        for key in ("domain", "user", "project")
    },
    "credentials.password": {"s3cret\udcff": "is not valid UTF-8; write it as UTF-8 text"},
    "credentials.access_key": {"A B": "holds a blank, control or non-ASCII character"},
    **{
        f"credentials.{key}": {"s3cret with blanks": "holds a blank, control or non-ASCII character; use"}
        for key in ("secret_key", "security_token", "client_token")
    },
    "credentials.allow": {
        **dict.fromkeys(
            (
                "GET",
                "GET v2",
                "get /v2",
                "GET /v2/",
                "GET /v2//a",
                "GET /a/../b",
                "GET /.",
                "GET /a%20",
                "GET /a;b",
            ),
            "is no method and path; write it like",
        ),
        "HEAD /v2/stacks": "is allowed with GET; write GET",
    },
    "tracing.endpoint": {
        "http://user:p@h/v1/traces": "is no endpoint; write http:// or https://, a host and a path",
        "127.0.0.1:4318": "is no endpoint",
    },
}


def _bad_values(name: str) -> dict[str, str]:
    match RULES[name]:
        case Number(low=low, high=high, of=kind) if kind is int:
            bad = dict.fromkeys(
                (f"{low - 1:g}", f"{high + 1:.15g}"), "is out of range; write a whole number of "
            )
            return bad | dict.fromkeys(("64k", "1.0", "1_0", ""), "is not a whole number; write a whole ")
        case Number(low=low, high=high):
            bad = dict.fromkeys((f"{low - 0.001}", f"{high + 0.1}"), "is out of range; write a number ")
            return bad | dict.fromkeys(("75s", "nan", "1_0", ""), "is not a number; write a number ")
        case Boolean():
            return {"yes": "is neither true nor false; write one of them"}
        case Enum(words=words):
            return {words[0].upper(): f'is unknown; write "{words[0]}" or "{words[1]}"'}
        case _:
            return _BAD[name]


@pytest.mark.parametrize("name", RULES)
def test_each_key_says_of_a_bad_value_where_it_is_set_and_what_to_write(name: str) -> None:
    variable = variable_of(name)
    shown = r"\*\*\*" if name in FROM_FILE else ".+"
    for text, message in _bad_values(name).items():
        with pytest.raises(ConfigError) as caught:
            load_config(None, _VARIABLES | {variable: text}, {})
        line = str(caught.value)
        assert re.match(rf"{name} = {shown} \(from {variable}\) {re.escape(message)}", line), line
        assert "s3cr" not in line
        assert line.isprintable()


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("server.workers", "-1", "whole number of processes from 0 to 1024, without unit"),
        ("server.max_header_bytes", "1023", "whole number of bytes from 1024 to 1048576, without unit"),
        ("server.keepalive_timeout_s", "1e400", "number of seconds from 0.01 to 86400, without unit"),
        ("cache.ttl_succeeded_s", "31536001", "number of seconds from 0.01 to 31536000, without unit"),
        ("redis.timeout_s", "0", "number of seconds from 0.001 to 60, without unit"),
        ("log.sample", "1.1", "number from 0 to 1"),
    ],
)
def test_a_number_out_of_range_names_its_bounds_and_unit(name: str, text: str, remedy: str) -> None:
    assert _error_of(None, {variable_of(name): text}).endswith(f" is out of range; write a {remedy}")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("AOS_GATEWAY_CACHE__SCOP", "did you mean AOS_GATEWAY_CACHE__SCOPE?"),
        ("AOS_GATEWAY_CACHE_SCOPE", "did you mean AOS_GATEWAY_CACHE__SCOPE?"),
        ("AOS_GATEWAY_cache__scope", "did you mean AOS_GATEWAY_CACHE__SCOPE?"),
        ("AOS_GATEWAY_CACHE__SCOPE_FILE", "unknown environment variable AOS_GATEWAY_CACHE__SCOPE_FILE"),
        ("AOS_GATEWAY_cache__secret_FILE", "unknown environment variable AOS_GATEWAY_cache__secret_FILE"),
        ("AOS_GATEWAY_XYZ__KEY", "config/gateway.toml lists all keys"),
        ("AOS_GATEWAY_ADMIN_TOKENS", "did you mean AOS_GATEWAY_SERVER__ADMIN_TOKEN?"),
        ("AOS_GATEWAY_REDIS_PASSWORD", "config/gateway.toml lists all keys"),
        ("AOS_GATEWAY_REDIS", "did you mean AOS_GATEWAY_REDIS__URL or"),
    ],
)
def test_an_unknown_variable_is_named_without_its_value(variable: str, hint: str) -> None:
    line = _error_of(None, {variable: "s3cret"})
    assert f"unknown environment variable {variable}" in line
    assert hint in line
    assert "s3cret" not in line


def test_a_variable_that_resembles_no_setting_is_named_and_does_not_stop_the_start() -> None:
    others = ["", "CONFIG", "ENVIRONMENT", "HOME", "IMAGE", "NAMESPACE", "REPLICAS", "VERSION", "X\n"]
    environ = {f"AOS_GATEWAY_{name}": "s3cret" for name in others}
    used = {"AOS_GATEWAY_LOG__LEVEL": "error", "AOS_GATEWAY_SERVICE_HOST": "10.0.0.1", "AOS_TOKEN": "x"}
    assert load_config(None, environ | used, _URL).log.level == "error"
    line = unused_variables(environ | used)
    assert line == "environment variables that name no setting: " + ", ".join(
        f"AOS_GATEWAY_{name}".replace("\n", "?") for name in others
    )
    assert unused_variables(used) is None


def test_a_secret_set_twice_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("s3cret")
    environ = {"AOS_GATEWAY_CACHE__SECRET": "s3cret", "AOS_GATEWAY_CACHE__SECRET_FILE": str(tmp_path / "s")}
    line = _error_of(None, environ)
    assert line == (
        "cache.secret is set by both AOS_GATEWAY_CACHE__SECRET and AOS_GATEWAY_CACHE__SECRET_FILE; "
        "unset one of them"
    )


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (None, "can't be read (No such file or directory); name a file that this user may read"),
        (b"", "is empty; write the value into it"),
        (b"\n", "is empty; write the value into it"),
        (b"s3cret\xff", "is not UTF-8 text; write it as base64"),
        (b"\xef\xbb\xbfs3cret", "starts with a byte order mark (BOM); save it as UTF-8 without BOM"),
        ("s3cret".encode("utf-16"), "is UTF-16 text; save it as UTF-8 without BOM"),
        ("s3cret".encode("utf-16-le"), "holds NUL bytes, as UTF-16 text does"),
        (b"s3cret" * 20_000, "is longer than 65536 bytes"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, remedy: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    line = _error_of(None, {"AOS_GATEWAY_CACHE__SECRET_FILE": str(file)})
    assert str(file) in line
    assert "AOS_GATEWAY_CACHE__SECRET_FILE" in line
    assert remedy in line
    assert "s3cret" not in line


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "can't be read (No such file or directory)" in _error_of(str(tmp_path / "none.toml"))
    assert "can't be read (Is a directory)" in _error_of(str(tmp_path))
    assert "can't be read (no valid path)" in _error_of("a\0b")
    (tmp_path / "latin.toml").write_bytes(b'[cache]\nsecret = "s3cret\xff"\n')
    line = _error_of(str(tmp_path / "latin.toml"))
    assert "is not UTF-8 text; save it as UTF-8" in line
    assert "s3cret" not in line
    for encoding, fault in (
        ("utf-8-sig", "starts with a byte order mark (BOM); save it as UTF-8 without BOM"),
        ("utf-16", "is UTF-16 text; save it as UTF-8 without BOM"),
        ("utf-32", "is UTF-32 text; save it as UTF-8 without BOM"),
        ("utf-16-be", "holds NUL bytes, as UTF-16 text does; save it as UTF-8"),
    ):
        (tmp_path / "marked.toml").write_text("[cache]\nsettle_s = 5\n", encoding=encoding)
        assert f"marked.toml' {fault}" in _error_of(str(tmp_path / "marked.toml"))
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"#")
    assert "is longer than 1048576 bytes" in _error_of(str(tmp_path / "big.toml"))


def test_a_missing_upstream_says_how_to_give_one() -> None:
    with pytest.raises(ConfigError, match=r"^upstream.url is missing; give serve --upstream URL, set AOS_"):
        load_config(None, {}, {})


def test_an_unknown_flag_name_is_rejected() -> None:
    assert "unknown key server.lisen; did you mean server.listen?" in _error_of(server__lisen="x")


_KEY = {
    "credentials__source": "access-key",
    "credentials__access_key": "A",
    "credentials__secret_key": "s3cret",
}


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (
            {"server__listen": "127.0.0.1:9901"},
            "server.admin_listen = 127.0.0.1:9901 is server.listen too; give each its own address",
        ),
        (
            {"server__listen": "unix:/run/a", "server__admin_listen": "unix:/run/a"},
            "server.admin_listen = unix:/run/a is server.listen too",
        ),
        (
            {"cache__memory_bytes": 0, "cache__ttl_running_s": 1, "redis__url": "redis://h"},
            "cache.ttl_running_s needs cache.memory_bytes, which is 0: only memory keeps these records; set "
            "cache.ttl_running_s = 0 or a memory size",
        ),
        (
            {"identity__by": "user"},
            'identity.by = "user" needs iam.url, since IAM says whose a token is; set it',
        ),
        (
            {"identity__by": "user", "iam__url": "https://iam", "cache__scope": "shared"},
            'identity.by = "user" separates users, which cache.scope = "shared" does not; use one of them',
        ),
        *(
            (
                {"credentials__source": source, **given},
                f'credentials.source = "{source}" needs {missing}; set',
            )
            for source, given, missing in (
                ("token-file", {}, "credentials.token_file"),
                ("password", {}, "iam.url"),
                ("password", {"iam__url": "https://iam", "credentials__domain": "d"}, "credentials.user"),
                ("access-key", {}, "credentials.access_key"),
                ("access-key", {"credentials__access_key": "A"}, "credentials.secret_key"),
            )
        ),
        (
            {"server__listen": ":8080", "credentials__client_token": "s3cret"},
            "credentials.client_token on server.listen = :8080 would be sent unencrypted; set ",
        ),
        (
            {"server__listen": ":8080", **_KEY},
            'credentials.source = "access-key" on server.listen = :8080 would serve everybody who can ',
        ),
        *(
            (
                {"server__listen": listen, **proxied, **_KEY},
                f'credentials.source = "access-key" with {name} would serve everybody who can connect to ',
            )
            for listen in ("127.0.0.1:1", "unix:/run/a")
            for name, proxied in (
                ("server.proxy_protocol", {"server__proxy_protocol": True}),
                ("server.trusted_proxies", {"server__trusted_proxies": ["127.0.0.1"]}),
            )
        ),
        (
            {"cache__memory_bytes": 0},
            "cache.memory_bytes = 0 without redis.url leaves no cache at all; set redis.url or a memory size",
        ),
        *(
            (
                {"cache__scope": "shared", "server__listen": listen},
                f'cache.scope = "shared" on server.listen = {listen} gives stored records to everybody who '
                "can connect; use 127.0.0.1 or unix:/path, or set cache.allow_shared_on_network = true",
            )
            for listen in (":8080", "0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080", "gateway.example:8080")
        ),
    ],
)
def test_settings_that_are_impossible_together_are_rejected(flags: dict[str, object], remedy: str) -> None:
    assert _error_of(**flags).startswith(remedy)


def test_settings_that_only_look_impossible_are_accepted() -> None:
    assert _from_flags(server__listen="127.0.0.1:0", server__admin_listen="127.0.0.1:0")
    assert _from_flags(cache__memory_bytes=0, redis__url="redis://h")
    assert _from_flags(identity__by="user", iam__url="http://127.0.0.1:9").iam.url == "http://127.0.0.1:9"
    assert _from_flags(**_KEY, credentials__client_token="x")
    assert _from_flags(**_KEY, credentials__client_token="x", server__proxy_protocol=True)
    assert _from_flags(server__trusted_proxies=["127.0.0.1"])
    for listen in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/a"):
        assert _from_flags(cache__scope="shared", server__listen=listen).cache.scope == "shared"
    assert _from_flags(
        cache__scope="shared", server__listen="0.0.0.0:1", cache__allow_shared_on_network="true"
    )


def test_a_ca_file_has_to_hold_certificates(authority: Authority, socket_folder: Path) -> None:
    tmp_path = socket_folder  # so short that errors show the whole path
    good = str(authority.ca_file)
    assert _from_flags(upstream__ca_file=good).upstream.ca_file == good
    for content in (
        b"",
        b"no certificate\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        (tmp_path / "bad.pem").write_bytes(content)
        line = _error_of(upstream__ca_file=str(tmp_path / "bad.pem"))
        assert "holds no certificates; name a PEM file with the CA certificates" in line
    (tmp_path / "marked.pem").write_bytes(b"\xef\xbb\xbf" + authority.ca_file.read_bytes())
    line = _error_of(upstream__ca_file=str(tmp_path / "marked.pem"))
    assert "marked.pem' (from command line) starts with a byte order mark (BOM); save it as UTF-8" in line
    assert "upstream.ca_file = 'a\\x00b'" in _error_of(upstream__ca_file="a\0b")


# Secrets stay masked.


@pytest.fixture
def secretive() -> Config:
    """A configuration full of secrets."""
    return _from_flags(
        server__admin_token="s3cret-admin",
        cache__secret="s3cret-cache",
        credentials__password="s3cret-password",
        credentials__secret_key="s3cret-key",
        credentials__security_token="s3cret-token",
        credentials__client_token="s3cret-client",
        redis__url="redis://s3cret-user:s3cret-password@redis.example:6380/5?",
    )


def test_no_text_form_of_the_configuration_holds_a_secret(secretive: Config) -> None:
    for text in (repr(secretive), str(secretive), f"{secretive}", repr(masked(secretive))):
        assert "s3cret" not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(secretive)


def test_the_masked_configuration_shows_what_is_set_and_where_redis_is(secretive: Config) -> None:
    shown: Any = masked(secretive)
    assert shown["server"]["admin_token"] == "***"
    assert shown["cache"]["secret"] == "***"
    assert shown["redis"]["url"] == "redis://***@redis.example:6380/5"
    empty: Any = masked(_from_flags())
    assert (empty["server"]["admin_token"], empty["cache"]["secret"], empty["redis"]["url"]) == ("", "", "")
    assert empty["upstream"]["url"] == "http://aos"
    assert empty["server"]["listen"] == "127.0.0.1:8080"
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown


def test_a_secret_shows_only_whether_it_is_set() -> None:
    secret = Secret("s3cret")
    assert (str(secret), repr(secret), f"{secret}") == ("***", "Secret('***')", "***")
    assert (str(Secret()), repr(Secret("")), bool(Secret()), bool(secret)) == ("", "Secret('')", False, True)
    assert secret.reveal() == "s3cret"
    assert secret == Secret("s3cret")
    assert secret != Secret("other")
    assert secret != "s3cret"
    assert len({secret, Secret("s3cret"), Secret("other")}) == 2
    assert not hasattr(secret, "__dict__")


def test_importing_the_configuration_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_GATEWAY_NONSENSE", "x")
    assert os.environ["AOS_GATEWAY_NONSENSE"] == "x"
    assert load_config(None, {}, _URL) == _from_flags()
