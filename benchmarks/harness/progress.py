"""Progress of a run: a bar if rich is installed and standard error is a terminal, else plain lines."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[str, float], None]


@contextmanager
def progress(scenarios: int) -> Iterator[Callable[[int], OnProgress]]:
    """Show progress inside the block.

    Args:
        scenarios: how many there will be.

    Yields:
        Takes the number of a scenario and returns the callback for a line and the completed share.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar(scenarios) as show:
            yield show
    else:
        yield _lines


@contextmanager
def _bar(scenarios: int) -> Iterator[Callable[[int], OnProgress]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=scenarios)

        def of(place: int) -> OnProgress:
            def show_line(text: str, share: float) -> None:
                bar.update(task, description=text, completed=place + share)

            return show_line

        yield of


def _lines(place: int) -> OnProgress:
    began_s = time.monotonic()
    last = ""

    def show_line(text: str, share: float) -> None:
        nonlocal last
        # One line for each round is enough for a log.
        if (what := text.rpartition(",")[0] or text) != last:
            last = what
            print(f"{time.monotonic() - began_s:6.1f} s  {what}", file=sys.stderr, flush=True)

    return show_line
