"""Which contestants there are, and what each needs to be installed."""

import glob
import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Need:
    """One thing that has to be there.

    Attributes:
        package: what to install: Debian's package, or the Python one.
        program: a program that it brings.
        files: patterns, one of which fits a file that it brings.
        module: a Python module that it brings.
    """

    package: str
    program: str = ""
    files: tuple[str, ...] = ()
    module: str = ""

    def is_met(self) -> bool:
        """Whether it is installed."""
        if self.program:
            return find_program(self.program) is not None
        if self.module:
            return importlib.util.find_spec(self.module) is not None
        return any(glob.glob(pattern) for pattern in self.files)


@dataclass(frozen=True)
class Kind:
    """One way to answer callers.

    Attributes:
        title: what it is called in tables.
        needs: what it needs.
        reads_bodies: keeps settled records alone, because it looks into them.
    """

    title: str
    needs: tuple[Need, ...] = ()
    reads_bodies: bool = False


# Debian puts servers into /usr/sbin, which is not on the PATH of ordinary users.
_MORE_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
NGINX_MODULES: Final = ("/usr/share/nginx/modules", "/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")
LUA_MODULE: Final = "ngx_http_lua_module.so"

WRK: Final = Need("wrk", program="wrk")
_NGINX = Need("nginx", program="nginx")
_LUA = (
    _NGINX,
    Need("libnginx-mod-http-lua", files=tuple(f"{folder}/{LUA_MODULE}" for folder in NGINX_MODULES)),
    Need(
        "lua-resty-core",
        files=("/usr/share/lua/5.*/resty/core.lua", "/usr/local/share/lua/5.*/resty/core.lua"),
    ),
    Need(
        "lua-cjson",
        files=("/usr/lib/*/lua/5.1/cjson.so", "/usr/lib/lua/5.1/cjson.so", "/usr/local/lib/lua/5.1/cjson.so"),
    ),
)
_LUA_REDIS = Need(
    "lua-nginx-redis",
    files=("/usr/share/lua/5.*/nginx/redis.lua", "/usr/*share/lua/5.*/resty/redis.lua"),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "gateway": Kind("gateway", reads_bodies=True),
        "nginx-cache": Kind("nginx proxy_cache", (_NGINX,)),
        "nginx-pass": Kind("nginx pass-through", (_NGINX,)),
        "lua-dict": Kind("nginx + Lua dict", _LUA, reads_bodies=True),
        "lua-redis": Kind("nginx + Lua + Redis", (*_LUA, _LUA_REDIS), reads_bodies=True),
        "varnish": Kind("Varnish", (Need("varnish", program="varnishd"),)),
        "haproxy": Kind("HAProxy cache", (Need("haproxy", program="haproxy"),)),
        "bare-proxy": Kind("bare aiohttp proxy"),
        "library": Kind(
            "aiohttp-client-cache",
            (Need("aiohttp-client-cache[redis] (Python)", module="aiohttp_client_cache"),),
            reads_bodies=True,
        ),
        "import": Kind("import of aiohttp"),
    }
)


def find_program(name: str) -> Path | None:
    """Find a program on the PATH or where Debian keeps servers; `None` when it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS]))
    return Path(found) if found else None


def missing_packages(needs: Iterable[Need]) -> list[str]:
    """Return what has to be installed for some needs, each once."""
    return list(dict.fromkeys(need.package for need in needs if not need.is_met()))
