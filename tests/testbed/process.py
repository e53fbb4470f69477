"""What another process holds, and what a gateway says of itself on its admin address."""

import os
from pathlib import Path
from typing import Any

from .client import fetch

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pid: int) -> int:
    """How much memory a process has resident; Linux only."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open; Linux only."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is still to be looked at does not. Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def health(admin: str) -> dict[str, Any]:
    """What `/readyz` reports."""
    found = (await fetch(admin, "/readyz")).json()
    assert isinstance(found, dict)
    return found


async def gauges(admin: str) -> dict[str, float]:
    """The metrics without labels by their name without prefix."""
    lines = (await fetch(admin, "/metrics")).body.decode().splitlines()
    pairs = [line.split() for line in lines if line.startswith("aos_gateway_") and "{" not in line]
    return {name.removeprefix("aos_gateway_"): float(value) for name, value in pairs}
