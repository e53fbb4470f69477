"""The event loop, the HTTP parser and the memory of the process."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable

import aiohttp.http_parser

from gateway.config.errors import ConfigError

_GARBAGE_OBJECTS = 20_000
_LARGE_BLOCK_BYTES = 8_388_608


def check_parser() -> None:
    """Reject aiohttp's Python parser, which is slower and reads some requests differently: `ConfigError`."""
    if os.environ.get("AIOHTTP_NO_EXTENSIONS") or not hasattr(aiohttp.http_parser, "HttpRequestParserC"):
        raise ConfigError(
            "aiohttp's C parser is not in use: unset AIOHTTP_NO_EXTENSIONS and install aiohttp from a wheel"
        )
    if sys.flags.dev_mode:
        raise ConfigError("Python's dev mode changes aiohttp's parser: start without -X dev or PYTHONDEVMODE")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the event loop factory: uvloop if it is installed."""
    try:
        import uvloop  # absent on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle_memory() -> None:
    """Exempt the objects made so far from garbage collection, collect less often, and keep freed memory.

    Entries and requests hold no cycles; with the defaults the collector took a twentieth of the CPU time.
    glibc gives back what is free beyond twice the largest block freed so far (mallopt(3)): without one, each
    piece of a large body that is passed through would cost page faults anew, a fifth of its CPU time.
    """
    bytes(_LARGE_BLOCK_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 20, 100)
