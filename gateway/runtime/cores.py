"""How many cores this process may keep busy: its affinity and the CPU quotas of its control groups."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")
_V1_CONTROLLER = "cpu"


def cores(proc: Path = _PROC) -> int:
    """Return how many cores this process may use, at least 1.

    Args:
        proc: like /proc/self.
    """
    may_use = getattr(os, "sched_getaffinity", None)
    usable = len(may_use(0)) if may_use is not None else os.cpu_count() or 1
    quota = quota_cores(proc)
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def quota_cores(proc: Path) -> float | None:
    """Return the least CPU quota of a process's control groups, those above them included.

    Both versions of control groups are looked at: a machine may use both.

    Args:
        proc: its folder in /proc: `cgroup` and `mountinfo` are read (cgroups(7), proc_pid_mountinfo(5)).

    Returns:
        Cores, a fraction as well; ``None`` without a quota.
    """
    quotas = [quota for folder in _groups(proc) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Find the folders of the groups a process is in, each with all above it."""
    paths = dict(_paths(_text(proc / "cgroup")))
    for kind, root, mounted_at in _mounts(_text(proc / "mountinfo")):
        path = paths.get(kind)
        if path is None:
            continue
        folder = mounted_at
        yield folder
        # In a container the mount may begin at the process's own group, or at one that is not above it.
        inside = os.path.relpath(path, root)
        for name in [] if inside.startswith("..") or inside == "." else inside.split("/"):
            folder = folder / name
            yield folder


def _paths(text: str) -> Iterator[tuple[str, str]]:
    """Read /proc/PID/cgroup: the path of the group in each hierarchy that can bound CPU time."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif _V1_CONTROLLER in controllers.split(","):
            yield "cgroup", path


def _mounts(text: str) -> Iterator[tuple[str, str, Path]]:
    """Read /proc/PID/mountinfo: kind, root and mount point of each such hierarchy."""
    for line in text.splitlines():
        mount, _, source = line.partition(" - ")
        fields, kinds = mount.split(" "), source.split(" ")
        if len(fields) < 5 or len(kinds) < 3:
            continue
        is_v1 = kinds[0] == "cgroup" and _V1_CONTROLLER in kinds[2].split(",")
        if kinds[0] == "cgroup2" or is_v1:
            yield kinds[0], _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _quota(folder: Path) -> float | None:
    """Return the quota of one group in cores; ``None`` when it has none of its own."""
    whole = _text(folder / "cpu.max").split()
    if not whole:
        whole = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # "max" in version 2 and -1 in version 1 are no bound.
    if len(whole) != 2 or not all(each.isdecimal() for each in whole) or int(whole[1]) == 0:
        return None
    return int(whole[0]) / int(whole[1])


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
