"""Open files for ten thousand connections: what this process may open, those that it starts may open too."""

import resource
from contextlib import suppress

_WANTED = 65536


def raise_limit(wanted: int = _WANTED) -> int:
    """Raise the soft limit of open descriptors as far as it goes, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Root may raise the hard limit too; some systems allow less than they report.
        for limits in ((wanted, max(hard, wanted)), (min(wanted, hard), hard)):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                break
    return limit()


def limit() -> int:
    """Return how many descriptors this process, and what it starts, may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _WANTED if soft == resource.RLIM_INFINITY else soft
