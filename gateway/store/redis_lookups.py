"""Look-ups in Redis: those of one batch are one command."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.core.caching.key import EntryKey
from gateway.store.lookup import FAILED, LookupResult
from gateway.store.redis_errors import StoreError

# Called once, with what was given beside it.
OnResult = Callable[[Any, LookupResult], None]
Lookup = tuple[EntryKey, OnResult, object]
# Returns the result of the values at an entry's key and at its stack's generation key.
ResultOf = Callable[[EntryKey, object, object], LookupResult]


async def send_lookups(
    timeout_s: float,
    mget: Callable[[list[bytes]], Awaitable[list[object]]],
    result_of: ResultOf,
    lookups: Sequence[Lookup],
) -> None:
    """Send a batch of look-ups, those of the same entry as one; each waits at most for the timeout.

    Args:
        mget: reads keys in order; raises `StoreError`.
    """
    waiting: dict[bytes, list[Lookup]] = {}
    names: list[bytes] = []
    for lookup in lookups:
        key = lookup[0]
        if (same := waiting.get(key.local)) is not None:
            same.append(lookup)
        else:
            waiting[key.local] = [lookup]
            names += (key.name, key.generation)
    batch = [*waiting.values()]
    # One deadline for all. The command itself is not cancelled.
    deadline = asyncio.get_running_loop().call_later(timeout_s, _deliver, result_of, batch, None)
    try:
        values = await mget(names)
    except StoreError:
        values = None
    finally:
        deadline.cancel()
    _deliver(result_of, batch, values)


def _deliver(result_of: ResultOf, batch: list[list[Lookup]], values: list[object] | None) -> None:
    at = 0
    for same in batch:
        result = FAILED
        try:
            if values is not None:
                result = result_of(same[0][0], values[at], values[at + 1])
        except Exception as error:
            _report(error)
        at += 2
        for _, on_result, beside in same:
            try:
                on_result(beside, result)
            except Exception as error:
                _report(error)
    # What comes after the timeout is for nobody.
    batch.clear()


def _report(error: Exception) -> None:
    # A fault in one request keeps no other from its outcome.
    context = {"message": "after a look-up", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
