"""CPU cores available to this process: its affinity and the CPU quotas of its control groups."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")
_V1_CONTROLLER = "cpu"


def cores(proc: Path = _PROC) -> int:
    """Return how many cores this process may use, at least 1; ``proc`` is like /proc/self."""
    may_use = getattr(os, "sched_getaffinity", None)
    usable = len(may_use(0)) if may_use is not None else os.cpu_count() or 1
    quota = quota_cores(proc)
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def quota_cores(proc: Path) -> float | None:
    """Return the smallest CPU quota of a process's control groups, of either version, and their ancestors.

    In cores, possibly a fraction; ``None`` without one. ``proc`` is the process's folder in /proc with
    `cgroup` and `mountinfo` (cgroups(7), proc_pid_mountinfo(5)).
    """
    return min((quota for folder in _groups(proc) if (quota := _quota(folder)) is not None), default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Yield the folders of a process's groups and of their ancestors."""
    paths = dict(_paths(_text(proc / "cgroup")))
    for kind, root, mounted_at in _mounts(_text(proc / "mountinfo")):
        if kind not in paths:
            continue
        yield mounted_at
        # In a container the mount's root may be the process's own group, or no ancestor of it.
        inside = Path(os.path.relpath(paths[kind], root))
        if ".." not in inside.parts:
            yield from (mounted_at / part for part in (inside, *inside.parents) if part.parts)


def _paths(text: str) -> Iterator[tuple[str, str]]:
    """Parse /proc/PID/cgroup: the group's path in each hierarchy that can limit CPU time."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif _V1_CONTROLLER in controllers.split(","):
            yield "cgroup", path


def _mounts(text: str) -> Iterator[tuple[str, str, Path]]:
    """Parse /proc/PID/mountinfo: file system type, root and mount point of each such hierarchy."""
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
    """Return the quota of one group in cores; ``None`` without one."""
    whole = _text(folder / "cpu.max").split()
    if not whole:
        whole = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # Unlimited: "max" in version 2, -1 in version 1.
    if len(whole) != 2 or not all(each.isdecimal() for each in whole) or int(whole[1]) == 0:
        return None
    return int(whole[0]) / int(whole[1])


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
