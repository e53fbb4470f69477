"""Imports go one way, and what is one module's business is touched by that module alone."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.structure.import_rules import OTHER_COMMANDS, PACKAGE, covered, faults, read_modules

ROOT = Path(__file__).parents[2]


def test_the_modules_keep_to_the_tables() -> None:
    modules = read_modules(ROOT)
    assert "gateway.core.caching.policy" in modules
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
    "core/http/__init__.py": "",
    "core/http/messages.py": "from gateway import __version__\n",
    "core/http/fields.py": "from gateway.core.http import messages\n",
    "core/aos/__init__.py": "",
    "core/aos/route.py": "",
    "core/caching/__init__.py": "",
    "core/caching/policy.py": "import msgspec\nfrom datetime import datetime\nfrom ..http import messages\n",
    "store/__init__.py": "",
    "store/redis.py": "import redis.asyncio\nfrom ..core.caching import policy\nfrom ..errors import Error\n",
    "errors.py": "",
    "upstream/client.py": "import aiohttp\naiohttp.ClientSession\n",
    "downstream/handler.py": "import aiohttp\naiohttp.web.Response\n",
    "server/run.py": "",
    "cli/main.py": "from gateway.twin import world\n",
    "twin/__init__.py": "",
    "twin/world.py": "from time import monotonic\n",
}


def test_a_tree_that_keeps_to_the_tables_has_no_fault(tmp_path: Path) -> None:
    write_tree(tmp_path, SAMPLE)
    assert faults(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("core/caching/policy.py", "import asyncio", "no loop, thread"),
        ("core/caching/policy.py", "def f():\n    import logging.config", "no loop, thread"),
        ("core/caching/policy.py", "from time import time as t", "time comes into core"),
        ("core/caching/policy.py", "import datetime\ndatetime.date.today()", "uses datetime.date.today"),
        ("core/caching/policy.py", "import socket", "core has no I/O"),
        ("core/caching/policy.py", "open('x')", "uses builtins.open"),
        ("core/caching/policy.py", "import orjson", "the standard library and msgspec"),
        ("core/caching/policy.py", "async def f(): ...", "core decides without waiting"),
        (
            "core/caching/policy.py",
            "from gateway import errors",
            "gateway.core.caching imports gateway.errors, which does not",
        ),
        (
            "core/http/messages.py",
            "from gateway.core.aos.route import X",
            "gateway.core.http imports gateway.core.aos",
        ),
        ("core/http/messages.py", "from . import fields", "in a circle: gateway.core.http."),
        ("core/http/__init__.py", "def f(): ...", "an __init__.py holds names only"),
        ("store/memory.py", "from redis.exceptions import RedisError", "where redis is imported"),
        ("upstream/client.py", "from gateway.store import redis", "gateway.upstream imports gateway.store"),
        ("downstream/handler.py", "from aiohttp import ClientSession", "uses aiohttp.ClientSession"),
        ("downstream/handler.py", "import aiohttp as a\na.TCPConnector()", "uses aiohttp.TCPConnector"),
        ("downstream/handler.py", "from prometheus_client import Counter", "names and bounds in one place"),
        (
            "server/run.py",
            "def f():\n    from gateway.cli.main import run",
            "gateway.server imports gateway.cli.main",
        ),
        ("store/memory.py", "X = __import__('y')", "only see import statements"),
        ("twin/world.py", "from gateway.core.http.messages import Field", "share the gateway's mistakes"),
        ("surprise.py", "", "surprise.py: stands in no room"),
        ("store/utils.py", "", "named after what it holds"),
        ("store/memory.py", "@dataclass\nclass A: ...", "a dataclass with repr"),
        ("store/memory.py", "@dataclass(frozen=True)\nclass A: ...", "a dataclass with repr"),
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


# A loop opens a pair of sockets, so the audit events of sockets show loops too.
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
    _, _, loaded = import_them(["gateway.server.run"])
    assert [name for name in loaded if covered(OTHER_COMMANDS, name)] == []
