"""Fixtures that every test may use, and descriptors enough for all of them."""

import resource

pytest_plugins = ["tests.testbed.fixtures", "tests.testbed.run_length"]

_DESCRIPTORS = 8_192


def pytest_configure() -> None:
    """Raise the limit of open descriptors: an ordinary user starts with 1024, some tests hold more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
