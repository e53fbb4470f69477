"""``python -m benchmarks.behaviour [NAME…] [--json OUT]``: plays scenarios, prints their table."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.behaviour import run, table
from benchmarks.behaviour.scenario import UnknownScenarioError, names
from benchmarks.harness.processes import StartError
from benchmarks.report import polls
from benchmarks.report.table import table as markdown_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, play, print.

    Returns:
        0, 1 when something did not start or nothing was answered, 2 for an option that cannot be used, 130
        after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.behaviour", description="Play scenarios with and without the gateway."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; none plays all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where the results go as JSON")
    options = parser.parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            results = runner.run(run(options.names))
    except UnknownScenarioError as exc:
        print(f"behaviour: {exc}", file=sys.stderr)
        return 2
    except StartError as exc:
        print(f"behaviour: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json is not None:
        values = [result.as_json() for result in results]
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(values)) + b"\n")
    print(table(results))
    for result in results:
        if rows := polls.rows(result.as_json()["sides"]):
            print(f"\n{result.title}:\n\n{markdown_table(polls.HEADS, rows)}")
    silent = [f"{one.name}, {side.name}" for one in results for side in one.sides if not side.answered]
    if silent:
        print(f"behaviour: nothing was answered: {'; '.join(silent)}", file=sys.stderr)
        return 1
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
