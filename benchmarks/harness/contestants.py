"""Starts the contestants of a scenario, each in front of the same upstream and pinned to the same core."""

import http.client
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.scenarios.scenario import Entry, Load
from tests.testbed.address import free_port

from .catalogue import LUA_MODULE, NGINX_MODULES, find_program
from .descriptors import limit
from .processes import (
    LOOPBACK,
    ROOT,
    SERVER_CPU,
    Child,
    GatewayServer,
    Origin,
    Processes,
    Ready,
    Redis,
    accepts,
    gateway_environment,
    get,
)

PEERS: Final = Path(__file__).parents[1] / "peers"
# So that nothing is evicted or ends during a run.
LONG_LIVED: Final = MappingProxyType(
    {
        "cache.memory_bytes": str(256 << 20),
        "cache.access_ttl_s": "86400",
        "cache.memory_ttl_s": "86400",
    }
)
_LUA_MEMORY_MB = 512
_MARGIN_BYTES = 16384
_HEAD_BYTES = 4096
_FILL_S = 240.0
_SPARE_DESCRIPTORS = 200
_KEPT_CONNECTIONS = 256


@dataclass
class Contestant:
    """One that takes part in a scenario and runs.

    Attributes:
        entry: as the scenario has it.
        url: where callers connect.
        child: its process.
        upstream: the origin behind it, its own.
        gateway: set when it is the gateway.
        redis: its own, when it has one.
        facts: what was found out about it once, such as its memory.
    """

    entry: Entry
    url: str
    child: Child
    upstream: Origin
    gateway: GatewayServer | None = None
    redis: Redis | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where one contestant is started: what it may use.

    Attributes:
        processes: what its process belongs to.
        upstream: the origin.
        redis: its Redis; `None` when it has none.
        entry: what it is.
        load: what it will have to bear.
        folder: its own.
        cpu: the core it is pinned to; `None` for none.
        address: where it shall listen.
    """

    processes: Processes
    upstream: Origin
    redis: Redis | None
    entry: Entry
    load: Load
    folder: Path
    cpu: int | None
    address: str

    def redis_address(self) -> tuple[str, str]:
        """Return host and port of its Redis."""
        assert self.redis is not None, f"{self.entry.kind} needs redis = true"
        host, _, port = self.redis.address.rpartition(":")
        return host, port


def start(
    processes: Processes,
    upstream: Origin,
    entry: Entry,
    load: Load,
    *,
    by_store: bool = False,
    bare: bool = False,
    cpu: int | None = SERVER_CPU,
) -> Contestant:
    """Start one contestant in front of an upstream.

    Args:
        processes: what it belongs to.
        upstream: the origin.
        entry: what it is.
        load: what it will have to bear.
        by_store: have its memory filled through the store interface first (the gateway alone).
        bare: with the configuration's own defaults for what is kept, and how long.
        cpu: as for `Processes.start`.

    Raises:
        StartError: it did not get ready.
    """
    redis = Redis(processes, name=f"redis of {entry.name}") if entry.redis else None
    address = f"{LOOPBACK}:{free_port()}"
    folder = processes.folder / f"{entry.kind}-{address.rpartition(':')[2]}"
    folder.mkdir()
    place = Place(processes, upstream, redis, entry, load, folder, cpu, address)
    if entry.kind == "gateway":
        settings = {
            **({} if bare else LONG_LIVED),
            **{name: setting_text(value) for name, value in entry.settings.items()},
        }
        if redis is not None:
            settings["redis.url"] = redis.url
        if by_store:
            return Contestant(entry, f"http://{address}", _filled(place, settings), upstream, None, redis)
        gateway = GatewayServer(processes, upstream.url, settings=settings, cpu=cpu, name=entry.name)
        return Contestant(entry, gateway.url, gateway.child, upstream, gateway, redis)
    child = _STARTERS[entry.kind](place)
    return Contestant(entry, f"http://{address}", child, upstream, None, redis)


def _filled(place: Place, settings: Mapping[str, str]) -> Child:
    wanted = {
        **settings,
        "log.access": "off",
        "upstream.url": place.upstream.url,
        "server.listen": place.address,
    }
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "benchmarks.harness.prefilled_gateway",
        "--records",
        str(place.load.records),
    ]
    log = place.folder / "filled"
    argv += ["--body-bytes", str(place.load.body_bytes), "--mark", log]
    return place.processes.start(
        place.entry.name,
        argv,
        env=gateway_environment(wanted),
        cpu=place.cpu,
        ready=log.exists,
        timeout_s=_FILL_S,
    )


def setting_text(value: str | float) -> str:
    """Return a value of TOML as the gateway's environment takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def filled(template: str, values: Mapping[str, object]) -> str:
    """Fill in the ``{{name}}`` of a template; the values may hold others.

    Raises:
        KeyError: it names one that there is not.
    """
    while "{{" in template:
        template = re.sub(r"\{\{(\w+)\}\}", lambda found: str(values[found[1]]), template)
    return template


def _write(place: Place, name: str, values: Mapping[str, object]) -> Path:
    file = place.folder / name
    file.write_text(filled((PEERS / name).read_text("utf-8"), values), "utf-8")
    return file


def _run(place: Place, argv: list[str | Path], ready: Ready | None = None) -> Child:
    ready = ready or accepts(place.address)
    return place.processes.start(place.entry.name, argv, cpu=place.cpu, ready=ready)


def _program(name: str) -> Path:
    found = find_program(name)
    assert found is not None, f"{name} is checked for before"
    return found


def _nginx(place: Place, server: str, http: str = "", **more: object) -> Child:
    # Started by root, its workers would run as a user without write access to the folder.
    preamble = ["user root;"] if os.geteuid() == 0 else []
    if more:
        modules = next(folder for folder in NGINX_MODULES if Path(folder, LUA_MODULE).exists())
        preamble += [f"load_module {modules}/{file};" for file in ("ndk_http_module.so", LUA_MODULE)]
    values = {
        "folder": place.folder,
        "peers": PEERS,
        "listen": place.address,
        "upstream": place.upstream.address,
        "descriptors": limit(),
        # What a cached record begins with in its file, the key included, has to fit.
        "buffer": _buffer_bytes(place.load.token_bytes),
        "kept": max(_KEPT_CONNECTIONS, place.load.connections),
        # The others are for connections.
        "open_files": limit() // 3,
        "preamble": "\n".join(preamble),
        "server": (PEERS / server).read_text("utf-8"),
        "http": (PEERS / http).read_text("utf-8") if http else "",
        **more,
    }
    file = _write(place, "nginx.conf", values)
    return _run(place, [_program("nginx"), "-p", place.folder, "-e", place.folder / "error.log", "-c", file])


def _buffer_bytes(token_bytes: int) -> int:
    pages = 1 + token_bytes // _HEAD_BYTES
    return (pages + (token_bytes > _HEAD_BYTES // 2)) * _HEAD_BYTES


def _nginx_cache(place: Place) -> Child:
    return _nginx(place, "nginx-cache.conf", "nginx-cache.http.conf")


def _nginx_pass(place: Place) -> Child:
    return _nginx(place, "nginx-pass.conf")


def _lua_dict(place: Place) -> Child:
    return _nginx(place, "lua-dict.conf", "lua.http.conf", memory_mb=_LUA_MEMORY_MB)


def _lua_redis(place: Place) -> Child:
    host, port = place.redis_address()
    return _nginx(place, "lua-redis.conf", "lua.http.conf", memory_mb=1, redis_host=host, redis_port=port)


def _varnish(place: Place) -> Child:
    host, _, port = place.upstream.address.rpartition(":")
    file = _write(place, "varnish.vcl", {"upstream_host": host, "upstream_port": port})
    argv: list[str | Path] = [_program("varnishd"), "-n", place.folder / "work", "-f", file]
    # -j none: no jail, it does not run as root; -T none: no management port.
    argv += ["-F", "-j", "none", "-T", "none", "-a", place.address, "-s", "malloc,1g", "-p", "thread_pools=1"]
    argv += ["-p", "http_req_hdr_len=32k", "-p", "http_req_size=64k", "-p", "workspace_client=128k"]
    return _run(place, [*argv, "-p", "workspace_backend=128k"])


def _haproxy(place: Place) -> Child:
    values = {
        "listen": place.address,
        "upstream": place.upstream.address,
        # Each caller may need a second descriptor, to the upstream.
        "connections": (limit() - _SPARE_DESCRIPTORS) // 2,
        "bufsize": 65536,
        "object_bytes": place.load.body_bytes + _MARGIN_BYTES,
    }
    file = _write(place, "haproxy.cfg", values)
    return _run(place, [_program("haproxy"), "-db", "-f", file])


def _python(module: str) -> Callable[[Place], Child]:
    def start_it(place: Place) -> Child:
        argv: list[str | Path] = [sys.executable, "-m", module, "--listen", place.address]
        argv += ["--upstream", place.upstream.url]
        argv += ["--redis", place.redis.url] if place.redis is not None else []
        return _run(place, argv)

    return start_it


_STARTERS: Mapping[str, Callable[[Place], Child]] = {
    "nginx-cache": _nginx_cache,
    "nginx-pass": _nginx_pass,
    "lua-dict": _lua_dict,
    "lua-redis": _lua_redis,
    "varnish": _varnish,
    "haproxy": _haproxy,
    "bare-proxy": _python("benchmarks.peers.bare_proxy"),
    "library": _python("benchmarks.peers.library_proxy"),
}


def import_s(cpu: int = SERVER_CPU) -> float:
    """Return the seconds that a fresh Python takes to import aiohttp's client and server, and to end."""
    with Processes() as processes:
        began_s = time.monotonic()
        argv = [sys.executable, "-c", "import aiohttp, aiohttp.web"]
        processes.start("import", argv, cpu=cpu, cwd=ROOT).wait(30.0)
        return time.monotonic() - began_s


def settle(contestant: Contestant, target: str, token: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Ask once, again and again while it fails to answer, and return status and body."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with suppress(OSError, http.client.HTTPException):
            status, body = get(contestant.url + target, X_Auth_Token=token)
            if status == 200 or time.monotonic() > deadline_s:
                return status, body
        if time.monotonic() > deadline_s:
            return 0, b""
        time.sleep(0.02)
