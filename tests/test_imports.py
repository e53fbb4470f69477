"""Imports go one way, and what is one module's business is touched by that module alone.

LAYERS says who stands above whom, RULES what else is forbidden and why. A name in them also covers all that is
inside it, and `*` covers any characters.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400
PACKAGE = "gateway"
THIRD_PARTY = "<third party>"

# Low to high. A module imports from its own layer and from lower ones, never in a circle.
LAYERS: dict[str, tuple[str, ...]] = {
    "core": ("gateway.core",),
    "settings and reports": (
        "gateway.access_log*",
        "gateway.address",
        "gateway.config*",
        "gateway.errors",
        "gateway.metrics*",
        "gateway.redis_url",
        "gateway.secret",
    ),
    "store": ("gateway.store",),
    "fetching": ("gateway.flight*", "gateway.upstream*"),
    "cache": ("gateway.cache*",),
    "handler": ("gateway.handler*",),
    "object graph": ("gateway.admin*", "gateway.app*"),
    "server": ("gateway.server*",),
    "other commands": ("gateway.demo*", "gateway.probe*", "gateway.purge*", "gateway.twin"),
    "command line": ("gateway.__main__", "gateway.cli*"),
}


@dataclass(frozen=True)
class Rule:
    """What some modules may not use.

    Attributes:
        who: the modules that it binds.
        never: dotted names that they may not use, imported or reached as an attribute of something imported.
        why: what the rule is good for.
        but_who: those among the modules that may all the same.
        but: those among the names that they may use all the same.
    """

    who: str
    never: tuple[str, ...]
    why: str
    but_who: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


RULES = (
    Rule(
        who="gateway.core",
        never=("asyncio", "concurrent", "logging", "multiprocessing", "signal", "subprocess", "threading"),
        why="core decides and does nothing: no loop, thread, process or log",
    ),
    Rule(
        who="gateway.core",
        never=("time", "datetime.*.now", "datetime.*.today", "datetime.*.utcnow"),
        why="time comes into core as now_s",
    ),
    Rule(
        who="gateway.core",
        never=("os", "random", "secrets", "uuid"),
        why="what core decides follows from its arguments alone",
    ),
    Rule(
        who="gateway.core",
        never=("http.client", "io", "pathlib", "select*", "socket*", "ssl", "urllib.request"),
        why="core has no I/O",
    ),
    Rule(
        who="gateway.core",
        never=("builtins.input", "builtins.open", "builtins.print"),
        why="core has no I/O",
    ),
    Rule(
        who="gateway.core",
        never=(THIRD_PARTY,),
        but=("msgspec",),
        why="core needs the standard library and msgspec",
    ),
    Rule(
        who=PACKAGE,
        never=("redis",),
        but_who=("gateway.store.notes*", "gateway.store.redis*"),
        why="the errors of redis are translated where redis is imported",
    ),
    Rule(
        who=PACKAGE,
        never=("aiohttp.Client*", "aiohttp.*Connector", "aiohttp.*CookieJar", "aiohttp.request"),
        but_who=("gateway.upstream*", "gateway.demo*", "gateway.probe*", "gateway.purge*"),
        why="one module keeps the aiohttp client from repeating and rewriting requests",
    ),
    Rule(
        who=PACKAGE,
        never=("aiohttp.client*", "aiohttp.connector", "aiohttp.cookiejar"),
        but_who=("gateway.upstream*", "gateway.demo*", "gateway.probe*", "gateway.purge*"),
        why="one module keeps the aiohttp client from repeating and rewriting requests",
    ),
    Rule(
        who=PACKAGE,
        never=("prometheus_client",),
        but_who=("gateway.metrics*",),
        why="metrics have their names and bounds in one place",
    ),
    Rule(
        who=PACKAGE,
        never=("gateway.twin",),
        but_who=("gateway.cli*", "gateway.demo*", "gateway.twin"),
        why="the simulated AOS cannot be reached from serve",
    ),
    Rule(
        who="gateway.twin",
        never=(PACKAGE,),
        but=("gateway.address", "gateway.config*", "gateway.errors", "gateway.twin"),
        why="the simulated AOS would share the gateway's mistakes if it shared its code",
    ),
    Rule(
        who=PACKAGE,
        never=("builtins.__import__", "importlib.import_module"),
        why="these tests can only see import statements",
    ),
)

NAMES_OF_NOTHING = ("common", "helpers", "misc", "util", "utils")


@dataclass(frozen=True)
class Use:
    """Something that a module uses: its full dotted name, and the line."""

    name: str
    line: int


@dataclass(frozen=True)
class Module:
    """One module of the tree that is checked."""

    name: str
    path: Path
    tree: ast.Module
    lines: int


def covers(pattern: str, name: str) -> bool:
    """Tell whether a name of the tables stands for this dotted name."""
    if pattern == THIRD_PARTY:
        top = name.partition(".")[0]
        return top not in sys.stdlib_module_names and top not in (PACKAGE, "builtins")
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def covered(patterns: tuple[str, ...], name: str) -> bool:
    return any(covers(pattern, name) for pattern in patterns)


def read_modules(root: Path) -> dict[str, Module]:
    """Read the package under a folder: its modules by their dotted names."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path.relative_to(root), ast.parse(text), len(text.splitlines()))
    return modules


def uses_of(module: Module) -> Iterator[Use]:
    """Find what a module uses, on every line: also in functions and under TYPE_CHECKING."""
    bound: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield Use(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, (package_of(module, node.level), node.module)))
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{source}.{alias.name}"
                yield Use(f"{source}.{alias.name}", node.lineno)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            chain = dotted(node, bound)
            if chain:
                yield Use(chain, node.lineno)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
            yield Use(f"builtins.{node.id}", node.lineno)


def package_of(module: Module, level: int) -> str:
    """The package that the dots of a relative import mean; "" when there are none."""
    if not level:
        return ""
    parts = module.name.split(".")
    up = level - 1 if module.path.name == "__init__.py" else level
    return ".".join(parts[: len(parts) - up])


def dotted(node: ast.expr, bound: dict[str, str]) -> str:
    """The dotted name behind an attribute of something imported; "" when it is anything else."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, bound)
        return f"{before}.{node.attr}" if before else ""
    return ""


def imported_modules(module: Module, modules: dict[str, Module]) -> dict[str, int]:
    """The project's modules that a module imports, each with the first line that does."""
    found: dict[str, int] = {}
    for use in uses_of(module):
        name = use.name
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if name and name != module.name:
            found.setdefault(name, use.line)
    return found


def layer_of(name: str) -> str | None:
    return next((layer for layer, patterns in LAYERS.items() if covered(patterns, name)), None)


def broken_layers(modules: dict[str, Module]) -> Iterator[str]:
    order = list(LAYERS)
    for module in modules.values():
        if module.name == PACKAGE:
            continue
        layer = layer_of(module.name)
        if layer is None:
            yield f"{module.path}: stands in no layer; give it its place in LAYERS"
            continue
        for name, line in imported_modules(module, modules).items():
            other = layer_of(name)
            if other is not None and order.index(other) > order.index(layer):
                yield f"{module.path}:{line}: {layer!r} imports {name}, which stands above it in {other!r}"


def broken_rules(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        rules = [
            rule for rule in RULES if covers(rule.who, module.name) and not covered(rule.but_who, module.name)
        ]
        for use in uses_of(module):
            for rule in rules:
                if covered(rule.never, use.name) and not covered(rule.but, use.name):
                    yield f"{module.path}:{use.line}: uses {use.name}, but {rule.why}"


def circles(modules: dict[str, Module]) -> Iterator[str]:
    """Find modules that import one another, over however many steps."""
    imports = {name: imported_modules(module, modules) for name, module in modules.items()}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> Iterator[str]:
        if name in way:
            yield "imports in a circle: " + " -> ".join((*way[way.index(name) :], name))
        elif name not in done:
            for other in imports[name]:
                yield from walk(other, (*way, name))
            done.add(name)

    for name in modules:
        yield from walk(name, ())


def broken_habits(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            yield f"{module.path}: has no docstring"
        if module.lines > MAX_LINES:
            yield f"{module.path}: has {module.lines} lines, more than {MAX_LINES}; look for the second noun"
        if module.path.stem in NAMES_OF_NOTHING:
            yield f"{module.path}: a module is named after what it holds"
        if module.path.name == "__init__.py":
            names = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
            for node in module.tree.body:
                if not isinstance(node, names):
                    yield f"{module.path}:{node.lineno}: an __init__.py holds names only"
        if covers("gateway.core", module.name):
            for inner in ast.walk(module.tree):
                if isinstance(inner, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                    yield f"{module.path}:{inner.lineno}: core decides without waiting"


CHECKS = (broken_layers, broken_rules, circles, broken_habits)


def faults(root: Path) -> list[str]:
    modules = read_modules(root)
    return [fault for check in CHECKS for fault in check(modules)]


def test_the_modules_keep_to_the_tables() -> None:
    modules = read_modules(ROOT)
    assert "gateway.core.policy" in modules
    assert faults(ROOT) == []


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


SAMPLE = {
    "__init__.py": '"""A."""\n__version__ = "1"\n',
    "core/__init__.py": '"""A."""\n',
    "core/policy.py": '"""A."""\nimport msgspec\nfrom datetime import datetime\nfrom gateway.core import status\n',
    "core/status.py": '"""A."""\nfrom gateway import __version__\nreload = str.now if False else datetime\n',
    "store/__init__.py": '"""A."""\n',
    "store/redis.py": '"""A."""\nimport redis.asyncio\nfrom ..core import policy\nfrom gateway.errors import E\n',
    "errors.py": '"""A."""\n',
    "upstream.py": '"""A."""\nimport aiohttp\naiohttp.ClientSession\n',
    "handler.py": '"""A."""\nimport aiohttp\naiohttp.web.Response\n',
    "demo.py": '"""A."""\nfrom gateway.twin import world\n',
    "twin/__init__.py": '"""A."""\n',
    "twin/world.py": '"""A."""\nfrom time import monotonic\n',
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
        ("core/policy.py", "from ..store import redis", "'core' imports gateway.store.redis"),
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
    write_tree(tmp_path, SAMPLE | {file: f'"""A."""\n{text}\n'.rstrip("\n") + "\n" * text.count("\n")})
    found = faults(tmp_path)
    assert len(found) == 1
    assert fault in found[0]
    assert found[0].startswith(("gateway/" + file, "imports in a circle"))


def test_a_module_without_a_docstring_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, SAMPLE | {"errors.py": "import enum\n"})
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
