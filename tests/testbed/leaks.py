"""Asserting that a block leaves no task and no file descriptor behind."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_FOLDERS = (Path("/proc/self/fd"), Path("/dev/fd"))
# uvloop's library opens one spare per loop at the first listening socket, to survive running out of them.
_SPARE = "/dev/null"


@asynccontextmanager
async def no_leaks(rounds: int = 50, pause_s: float = 0.01) -> AsyncIterator[None]:
    """Assert that the block ends with the tasks and file descriptors it began with.

    Closing a socket takes a few turns of the loop, and its peer's end of it some more; so what is left
    over is looked at again, a bounded number of times.

    Args:
        rounds: how often to look before it counts as a leak.
        pause_s: pause in seconds between two looks.

    Raises:
        AssertionError: names the tasks and descriptors that are left over.
    """
    tasks, descriptors = asyncio.all_tasks(), open_descriptors()
    yield
    gc.collect()
    left: list[str] = []
    for _ in range(rounds):
        await asyncio.sleep(0)
        left = [f"task {task.get_name()}" for task in asyncio.all_tasks() - tasks]
        left += [f"descriptor {number}: {what}" for number, what in new_descriptors(descriptors)]
        if not left:
            return
        await asyncio.sleep(pause_s)
    raise AssertionError(f"left over: {'; '.join(sorted(left))}")


def new_descriptors(before: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """The file descriptors that were not open before, less the event loop's spare one."""
    return {(number, what) for number, what in open_descriptors() - before if what != _SPARE}


def open_descriptors() -> set[tuple[int, str]]:
    """The open file descriptors of this process, each with what it stands for."""
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    found = set()
    for name in os.listdir(folder):
        try:
            found.add((int(name), os.readlink(folder / name)))
        except FileNotFoundError:
            continue  # the one that listdir itself had open
        except OSError:
            found.add((int(name), "?"))  # where /dev/fd holds devices instead of links
    return found
