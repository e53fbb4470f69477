"""Resources of this process, by the names of all Prometheus clients.

Not `prometheus_client.ProcessCollector`: workers never load that package.
"""

import os
import resource
import time
from pathlib import Path

_PROC = Path("/proc/self")
# Field 22 of /proc/self/stat (proc(5)), counted after the name, which may hold anything.
_START_FIELD = 19


def gauges() -> dict[str, float]:
    """Return the process metrics by name, as far as the system has them."""
    found = {"process_cpu_seconds": time.process_time(), "processes": 1.0}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY:
        found["process_max_fds"] = limit
    try:
        virtual, resident = (_PROC / "statm").read_text().split()[:2]
        found["process_virtual_memory_bytes"] = int(virtual) * os.sysconf("SC_PAGE_SIZE")
        found["process_resident_memory_bytes"] = int(resident) * os.sysconf("SC_PAGE_SIZE")
        # Not the descriptor that lists them.
        found["process_open_fds"] = len(os.listdir(_PROC / "fd")) - 1
        found["process_start_time_seconds"] = _start_s()
    except (OSError, ValueError, IndexError):
        pass
    return found


def _start_s() -> float:
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    booted_s = next(
        int(line.split()[1])
        for line in Path("/proc/stat").read_text().splitlines()
        if line.startswith("btime")
    )
    return booted_s + int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
