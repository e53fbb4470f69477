"""``python -m benchmarks.behaviour [NAME…] [--json OUT]``: plays scenarios, prints their table."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from benchmarks.behaviour import at_url, run, table
from benchmarks.behaviour.at_url import NothingToPollError, UrlOptions
from benchmarks.behaviour.result import Result
from benchmarks.behaviour.scenario import UnknownScenarioError, names
from benchmarks.harness.descriptors import raise_limit
from benchmarks.harness.processes import StartError
from benchmarks.report import polls
from benchmarks.report.results import check_writable
from benchmarks.report.table import table as markdown_table
from gateway.config.errors import ConfigError, one_line


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without values of unknown options: they may be secrets."""

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Read the command line, or end with 2."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"unknown option {unknown[0].partition('=')[0]}")
        return options

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and end with 2."""
        self.exit(2, one_line(f"behaviour: {message}; see --help") + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, play, print.

    Returns:
        0, 1 when something did not start or nothing was answered, 2 for an option that cannot be used, 130
        after Ctrl-C.
    """
    parser = _Parser(
        prog="python -m benchmarks.behaviour",
        description="Play scenarios with and without the gateway, or pollers at a server that runs already.",
        epilog="example: AOS_TOKEN=... python -m benchmarks.behaviour pollers --url http://127.0.0.1:8080"
        " --target /v2/stacks/my-stack/actions/my-stack-1 --callers 50 --every 2",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; none plays all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where the results go as JSON")
    at_url.add_arguments(parser)
    options = parser.parse(arguments)
    try:
        to_poll = at_url.read_options(options.names, options, os.environ)
        _check_writable(options.json)
        raise_limit()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            results = runner.run(_results(options.names, to_poll))
    except (UnknownScenarioError, ConfigError) as exc:
        return _fail(2, str(exc))
    except (StartError, NothingToPollError) as exc:
        return _fail(1, str(exc))
    except KeyboardInterrupt:
        return 130
    if options.json is not None:
        values = [result.as_json() for result in results]
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(values)) + b"\n")
    print(table(results))
    for result in results:
        heads, rows = polls.columns(result.as_json()["sides"])
        if rows:
            print(f"\n{result.title}:\n\n{markdown_table(heads, rows)}")
    silent = [f"{one.name}, {side.name}" for one in results for side in one.sides if not side.answered]
    if silent:
        return _fail(1, f"nothing was answered: {'; '.join(silent)}")
    return 0


def _check_writable(file: Path | None) -> None:
    if file is not None:
        try:
            check_writable(file)
        except OSError as exc:
            raise ConfigError(f"--json {file}: {exc.strerror}") from exc


async def _results(wanted: Sequence[str], to_poll: UrlOptions | None) -> list[Result]:
    return await run(wanted) if to_poll is None else [await at_url.poll_at_url(to_poll)]


def _fail(code: int, line: str) -> int:
    print(one_line(f"behaviour: {line}"), file=sys.stderr)
    return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
