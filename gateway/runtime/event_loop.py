"""Which event loop and which parser run the gateway."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable

import aiohttp.http_parser

from gateway.config.errors import ConfigError

_GARBAGE_OBJECTS = 20_000


def check_parser() -> None:
    """Refuse to start on aiohttp's Python parser, which is slower and reads some requests differently.

    Raises:
        ConfigError: what to do about it.
    """
    if os.environ.get("AIOHTTP_NO_EXTENSIONS") or not hasattr(aiohttp.http_parser, "HttpRequestParserC"):
        raise ConfigError(
            "aiohttp's C parser is not in use: unset AIOHTTP_NO_EXTENSIONS and install aiohttp from a wheel"
        )
    if sys.flags.dev_mode:
        raise ConfigError("Python's dev mode changes aiohttp's parser: start without -X dev or PYTHONDEVMODE")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop's where there is one."""
    try:
        import uvloop  # absent on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle_garbage_collector() -> None:
    """Leave what lives as long as the process out of the collector's rounds, and make these rarer.

    Entries and requests hold no cycles; with the defaults a twentieth of the time went into looking for some.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 20, 100)
