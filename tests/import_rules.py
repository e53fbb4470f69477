"""Who may import what: the tables, and the reader that checks a tree against them.

LAYERS says who stands above whom, RULES what else is forbidden and why. A name in them also covers all that
is inside it, and `*` covers any characters.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

MAX_LINES = 400
PACKAGE = "gateway"
THIRD_PARTY = "<third party>"

# Low to high. A module imports from its own layer and from lower ones, never in a circle.
LAYERS: dict[str, tuple[str, ...]] = {
    "core": ("gateway.core",),
    "ground": (
        "gateway.access_log*",
        "gateway.address",
        "gateway.caller_digest",
        "gateway.channel",
        "gateway.clock",
        "gateway.config*",
        "gateway.cores",
        "gateway.descriptors",
        "gateway.errors",
        "gateway.event_loop",
        "gateway.line_writer",
        "gateway.listeners",
        "gateway.log_limit",
        "gateway.log_lines",
        "gateway.loop_lag",
        "gateway.metrics*",
        "gateway.process",
        "gateway.progress",
        "gateway.redis_url",
        "gateway.request_id",
        "gateway.secret",
        "gateway.shared_counts",
        "gateway.sightings",
        "gateway.signals",
        "gateway.state_log",
        "gateway.systemd",
        "gateway.tasks",
        "gateway.throttle",
        "gateway.throttled",
        "gateway.tls",
    ),
    "store": ("gateway.store",),
    "fetching": ("gateway.flight*", "gateway.upstream*"),
    "cache": ("gateway.cache*",),
    "downstream": (
        "gateway.admission",
        "gateway.connection*",
        "gateway.fast_lane*",
        "gateway.handler*",
        "gateway.proxy_protocol",
        "gateway.reply*",
    ),
    "object graph": ("gateway.admin*", "gateway.app*", "gateway.page"),
    "server": (
        "gateway.reload",
        "gateway.server*",
        "gateway.service*",
        "gateway.supervisor*",
        "gateway.takeover",
        "gateway.worker*",
    ),
    "other commands": ("gateway.demo*", "gateway.probe*", "gateway.purge*", "gateway.twin", "gateway.wait*"),
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
        never=(
            "builtins.input",
            "builtins.open",
            "builtins.print",
            "http.client",
            "io",
            "pathlib",
            "select*",
            "socket*",
            "ssl",
            "urllib.request",
        ),
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
        never=(
            "aiohttp.*Connector",
            "aiohttp.*CookieJar",
            "aiohttp.Client*",
            "aiohttp.client*",
            "aiohttp.connector",
            "aiohttp.cookiejar",
            "aiohttp.request",
        ),
        but_who=("gateway.upstream*", "gateway.demo*", "gateway.probe*", "gateway.purge*", "gateway.wait*"),
        why="one module keeps the aiohttp client from repeating and rewriting requests",
    ),
    Rule(
        who=PACKAGE,
        never=("prometheus_client",),
        but_who=("gateway.metrics_text",),
        why="metrics have their names and bounds in one place",
    ),
    Rule(
        who=PACKAGE,
        never=("opentelemetry",),
        but_who=("gateway.app_tracing",),
        why="it is an extra, and loaded only when spans are wanted",
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
        but=("gateway.address", "gateway.config*", "gateway.errors", "gateway.listeners", "gateway.twin"),
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
    """Check the package under a folder: one line for each fault, with file, line and the rule."""
    modules = read_modules(root)
    return [fault for check in CHECKS for fault in check(modules)]
