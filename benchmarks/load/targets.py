"""Which records callers ask for: made from a load, in an order that is random and always the same."""

import json
import random
from pathlib import Path

import msgspec

from benchmarks.harness.origin import BODY_BYTES, RUNNING
from benchmarks.openloop.targets import RequestPath, Token, read_lines
from benchmarks.scenarios.scenario import Load

# Path, and token or "".
Target = tuple[str, str]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: RequestPath
    token: Token | None = None


_LINE = msgspec.json.Decoder(_Line)


def make_targets(load: Load, at_most: int = 400_000) -> list[Target]:
    """Return pairs of path and token: each caller asks for each record, in one random order.

    Args:
        load: what is asked for.
        at_most: so many; beyond it a random choice of all the pairs.
    """
    pairs = load.records * load.callers
    order = random.Random(pairs).sample(range(pairs), min(pairs, at_most))
    return [(path(load, number // load.callers), token(load, number % load.callers)) for number in order]


def path(load: Load, record: int) -> str:
    """Return the path of one record of a load; every record has a stack of its own."""
    stack = f"{RUNNING.decode()}-{record:07d}" if load.running else f"stack-{record:07d}"
    size = f".{load.body_bytes}" if load.body_bytes != BODY_BYTES else ""
    what = "elements/element" if load.elements else "actions/action"
    return f"/v2/stacks/{stack}/{what}-{record:07d}{size}"


def token(load: Load, caller: int) -> str:
    """Return the token of one caller of a load."""
    return f"token-{caller:04d}-".ljust(load.token_bytes, "x")


def write_lines(targets: list[Target], file: Path) -> Path:
    """Write them as `wrk.lua` reads them."""
    file.write_text("".join(f"{token}\t{path}\n" for path, token in targets), "ascii")
    return file


def write_jsonl(targets: list[Target], file: Path) -> Path:
    """Write them as the two generators in Python read them."""
    lines = ({"target": path, **({"token": token} if token else {})} for path, token in targets)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "ascii")
    return file


def read_jsonl(file: Path) -> list[Target]:
    """Read what `write_jsonl` has written, or somebody by hand; without a token it is empty.

    Raises:
        BadTargetsError: the file cannot be read, a line is no target, or there is none.
    """
    return [(line.target, line.token or "") for line in read_lines(file, _LINE)]
