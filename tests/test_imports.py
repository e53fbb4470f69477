"""Imports go one way, and what is one module's business is touched by that module alone."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.import_rules import LAYERS, PACKAGE, covered, faults, read_modules

ROOT = Path(__file__).parent.parent


def test_the_modules_keep_to_the_tables() -> None:
    modules = read_modules(ROOT)
    assert "gateway.core.policy" in modules
    assert faults(ROOT) == []


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DOC + text, encoding="utf-8")


DOC = '"""A."""\n'
SAMPLE = {
    "__init__.py": '__version__ = "1"\n',
    "core/__init__.py": "",
    "core/policy.py": "import msgspec\nfrom datetime import datetime\nfrom gateway.core import status\n",
    "core/status.py": "from gateway import __version__\n",
    "store/__init__.py": "",
    "store/redis.py": "import redis.asyncio\nfrom ..core import policy\nfrom gateway.errors import Error\n",
    "errors.py": "",
    "upstream.py": "import aiohttp\naiohttp.ClientSession\n",
    "handler.py": "import aiohttp\naiohttp.web.Response\n",
    "demo.py": "from gateway.twin import world\n",
    "twin/__init__.py": "",
    "twin/world.py": "from time import monotonic\n",
}


def test_a_tree_that_keeps_to_the_tables_has_no_fault(tmp_path: Path) -> None:
    write_tree(tmp_path, SAMPLE)
    assert faults(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("core/policy.py", "import asyncio", "no loop, thread"),
        ("core/policy.py", "def f():\n    import logging.config", "no loop, thread"),
        ("core/policy.py", "from time import time as t", "time comes into core"),
        ("core/policy.py", "from datetime import datetime as d\nd.now()", "uses datetime.datetime.now"),
        ("core/policy.py", "import datetime\ndatetime.date.today()", "uses datetime.date.today"),
        ("core/policy.py", "import os.path", "follows from its arguments"),
        ("core/policy.py", "import socket", "core has no I/O"),
        ("core/policy.py", "open('x')", "uses builtins.open"),
        ("core/policy.py", "import orjson", "the standard library and msgspec"),
        ("core/policy.py", "async def f(): ...", "core decides without waiting"),
        ("core/policy.py", "from gateway import errors", "'core' imports gateway.errors, which stands above"),
        ("core/policy.py", "from .. import store", "'core' imports gateway.store, which"),
        (
            "core/status.py",
            "from gateway.core.policy import X",
            "in a circle: gateway.core.policy -> gateway.core.s",
        ),
        ("core/__init__.py", "def f(): ...", "an __init__.py holds names only"),
        ("store/memory.py", "from redis.exceptions import RedisError", "where redis is imported"),
        ("upstream.py", "import gateway.handler", "'fetching' imports gateway.handler"),
        ("handler.py", "from aiohttp import ClientSession", "uses aiohttp.ClientSession"),
        ("handler.py", "import aiohttp as a\na.TCPConnector()", "uses aiohttp.TCPConnector"),
        ("handler.py", "from aiohttp.client_exceptions import X", "uses aiohttp.client_exceptions.X"),
        ("handler.py", "from prometheus_client import Counter", "names and bounds in one place"),
        ("server.py", "def f():\n    from gateway.demo import run", "'server' imports gateway.demo"),
        ("probe.py", "import gateway.twin.world", "cannot be reached from serve"),
        ("twin/world.py", "from gateway.core.status import Reason", "share the gateway's mistakes"),
        ("cli.py", "import importlib\nimportlib.import_module('x')", "only see import statements"),
        ("surprise.py", "", "surprise.py: stands in no layer"),
        ("store/utils.py", "", "named after what it holds"),
        ("errors.py", "\n" * 400, "has 401 lines"),
    ],
)
def test_a_module_that_breaks_a_rule_is_named_with_the_rule(
    tmp_path: Path, file: str, text: str, fault: str
) -> None:
    write_tree(tmp_path, SAMPLE | {file: text})
    found = faults(tmp_path)
    assert len(found) == 1
    assert fault in found[0]
    assert found[0].startswith(("gateway/" + file, "imports in a circle"))


def test_a_module_without_a_docstring_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, SAMPLE)
    (tmp_path / PACKAGE / "errors.py").write_text("import enum\n")
    assert faults(tmp_path) == ["gateway/errors.py: has no docstring"]


# A loop opens a pair of sockets, so the audit events of sockets tell of loops too.
IMPORT_THEM = """
import importlib, json, sys, threading
started = []
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system")):
        started.append(event)
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([started, [thread.name for thread in threading.enumerate()], sorted(sys.modules)]))
"""


def import_them(names: Iterable[str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_THEM, *names], cwd=ROOT, capture_output=True, check=True, timeout=20
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_importing_every_module_starts_nothing() -> None:
    # The modules named __main__ are there to be run.
    names = [name for name in read_modules(ROOT) if not name.endswith(".__main__")]
    started, threads, _ = import_them(names)
    assert started == []
    assert threads == ["MainThread"]


def test_serve_loads_none_of_what_the_other_commands_need() -> None:
    _, _, loaded = import_them(["gateway.server"])
    others = (*LAYERS["other commands"], *LAYERS["command line"])
    assert [name for name in loaded if covered(others, name)] == []
