"""Who may import what: the tables, and the reader that checks a tree against them.

ROOMS says which folder stands above which, RULES what else is forbidden and why. A name in them also covers
all that is inside it, and `*` covers any characters.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGE = "gateway"
THIRD_PARTY = "<third party>"

# Low to high. A room imports from itself and from the rows below it, not from others of its own row. The
# package itself has the version alone, which every room may import.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("gateway.core.http", "gateway.core.aos"),
    ("gateway.core.caching",),
    ("gateway.clock", "gateway.tasks", "gateway.config"),
    ("gateway.errors",),
    ("gateway.runtime", "gateway.telemetry"),
    ("gateway.operations",),
    ("gateway.store", "gateway.upstream", "gateway.iam", "gateway.page"),
    ("gateway.cache", "gateway.credentials", "gateway.admin"),
    ("gateway.downstream",),
    ("gateway.app",),
    ("gateway.server",),
    ("gateway.twin",),
    ("gateway.cli",),
    ("gateway.__main__",),
)
# What `serve` never loads.
OTHER_COMMANDS = ("gateway.cli", "gateway.twin")


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
        but_who=("gateway.store.redis*", "gateway.store.subscription"),
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
        but_who=("gateway.upstream", "gateway.iam", "gateway.cli"),
        why="one module keeps the aiohttp client from repeating and rewriting requests",
    ),
    Rule(
        who=PACKAGE,
        never=("prometheus_client",),
        but_who=("gateway.telemetry.metrics_text",),
        why="metrics have their names and bounds in one place",
    ),
    Rule(
        who=PACKAGE,
        never=("opentelemetry",),
        but_who=("gateway.app.tracing",),
        why="it is an extra, and loaded only when spans are wanted",
    ),
    Rule(
        who=PACKAGE,
        never=("gateway.twin",),
        but_who=("gateway.cli", "gateway.twin"),
        why="the simulated AOS cannot be reached from serve",
    ),
    Rule(
        who="gateway.twin",
        never=(PACKAGE,),
        but=("gateway.config", "gateway.runtime", "gateway.twin"),
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


def covers(pattern: str, name: str) -> bool:
    """Whether a name of the tables stands for this dotted name."""
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
        modules[name] = Module(name, path.relative_to(root), ast.parse(text))
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


def room_of(name: str) -> tuple[int, str] | None:
    """The row and the name of a module's room; `None` where the table has none."""
    for row, rooms in enumerate(ROOMS):
        for room in rooms:
            if covers(room, name):
                return row, room
    return None


def broken_rooms(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.path.name == "__init__.py" and not imported_modules(module, modules):
            continue
        here = room_of(module.name)
        if here is None:
            yield f"{module.path}: stands in no room; give its folder a row in ROOMS"
            continue
        for name, line in imported_modules(module, modules).items():
            there = room_of(name)
            if there is not None and there != here and there[0] >= here[0]:
                yield f"{module.path}:{line}: {here[1]} imports {name}, which does not stand below it"


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
        if module.path.stem in NAMES_OF_NOTHING:
            yield f"{module.path}: a module is named after what it holds"
        if module.path.name == "__init__.py":
            names = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
            for node in module.tree.body:
                if not isinstance(node, names):
                    yield f"{module.path}:{node.lineno}: an __init__.py holds names only"
        for each in ast.walk(module.tree):
            for made in map(ast.unparse, each.decorator_list if isinstance(each, ast.ClassDef) else ()):
                # Of the class, or of the fields that hold secrets.
                if made.startswith("dataclass") and "repr=False" not in ast.unparse(each):
                    yield f"{module.path}: a dataclass with repr could show a token in a log"
        if covers("gateway.core", module.name):
            for inner in ast.walk(module.tree):
                if isinstance(inner, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                    yield f"{module.path}:{inner.lineno}: core decides without waiting"


CHECKS = (broken_rooms, broken_rules, circles, broken_habits)


def faults(root: Path) -> list[str]:
    """Check the package under a folder: one line for each fault, with file, line and the rule."""
    modules = read_modules(root)
    return [fault for check in CHECKS for fault in check(modules)]
