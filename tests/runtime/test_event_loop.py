"""What a process does about its memory, seen in a fresh one."""

import subprocess
import sys

_PIECES = """
import resource
from gateway.runtime.event_loop import settle_memory

settle_memory()


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def hold_and_free():
    before = faults()
    pieces = [b"x" * 256_000 for _ in range(32)]
    return faults() - before


first = hold_and_free()
print(first, sum(hold_and_free() for _ in range(4)))
"""


def test_memory_of_large_bodies_that_was_freed_is_used_again() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _PIECES], capture_output=True, text=True, check=True, timeout=30
    )
    first, later = map(int, run.stdout.split())
    # 32 pieces of 63 pages.
    assert first > 1000
    assert later < 100
