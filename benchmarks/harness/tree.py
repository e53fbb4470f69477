"""What a process and everything it started has used: CPU time and memory, read from /proc (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Stat:
    """One process, from /proc/PID/stat (man 5 proc).

    Attributes:
        pid: its id.
        parent: its parent's id.
        began: clock ticks since boot; with the pid, it names a process for good.
        cpu_s: user and system seconds of all its threads, and of its children that it has waited for.
        rss_bytes: resident memory.
        has_ended: it is over, and stays in the table only until its parent has looked.
    """

    pid: int
    parent: int
    began: int
    cpu_s: float
    rss_bytes: int
    has_ended: bool = False


def parse_stat(line: str) -> Stat:
    """Read one line of /proc/PID/stat; the name in it may hold blanks and parentheses."""
    pid, _, rest = line.partition(" (")
    fields = rest[rest.rindex(")") + 2 :].split()
    # Counted from the state, which man 5 proc has as field 3.
    ticks = sum(int(ticks) for ticks in fields[11:15])
    return Stat(
        pid=int(pid),
        parent=int(fields[1]),
        began=int(fields[19]),
        cpu_s=ticks * _TICK_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
        has_ended=fields[0] in "ZX",
    )


def stat(pid: int) -> Stat | None:
    """Look at one process; `None` when there is none with this id."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text("utf-8", "replace"))
    except OSError:
        return None


def lives(one: Stat) -> bool:
    """Whether a process seen before still runs, and not another one under its id."""
    now = stat(one.pid)
    return now is not None and now.began == one.began and not now.has_ended


def tree(pid: int) -> list[Stat]:
    """Return a process and all its living descendants, parents first; empty when it has ended."""
    root = stat(pid)
    if root is None:
        return []
    below: dict[int, list[Stat]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit():
            one = stat(int(name))
            if one is not None:
                below.setdefault(one.parent, []).append(one)
    found = [root]
    for one in found:
        found += below.get(one.pid, [])
    return found


def cpu_s(pid: int) -> float:
    """Return the user and system seconds that a process and its descendants have used."""
    return sum(one.cpu_s for one in tree(pid))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; shared pages count in each."""
    return sum(one.rss_bytes for one in tree(pid))


def busy_s(cpu: int | None = None) -> float:
    """Return the seconds that a core, or all of them, has worked since boot, for whomever; 0 for no core."""
    wanted = "cpu" if cpu is None else f"cpu{cpu}"
    for line in (_PROC / "stat").read_text("ascii").splitlines():
        name, *ticks = line.split()
        if name == wanted:
            # User, nice, system, then idle and its wait for disks, interrupts, and what the host took away.
            return sum(int(one) for place, one in enumerate(ticks[:8]) if place not in (3, 4)) * _TICK_S
    return 0.0
