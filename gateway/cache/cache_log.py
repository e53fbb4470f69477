"""What the cache decides and does, for ``log.level = "debug"``."""

import enum
import functools
import logging
from collections.abc import Iterable

from gateway.cache.results import Fetched
from gateway.core.http.messages import Request
from gateway.telemetry.log_format import FIELDS

_log = logging.getLogger("gateway.cache.cache")


# For who is called at every poll.
is_on = functools.partial(_log.isEnabledFor, logging.DEBUG)


def decided(request: Request, text: str, *values: object) -> None:
    if is_on():
        plain = [each.value if isinstance(each, enum.Enum) else each for each in values]
        fields = {"request_id": request.request_id.decode("ascii", "replace")}
        _log.debug(text, *plain, extra={FIELDS: fields})


def fetched(request: Request, result: Fetched) -> None:
    decision, status = result.decision, result.fetched_response.head.status
    phase = None if decision is None else decision.phase
    if result.given is None:
        decided(request, "fetched: %d, phase %s: %s", status, phase, result.reason or "stored")
    else:
        decided(request, "found what another replica has fetched: %d, phase %s", status, phase)


def invalidates(stacks: Iterable[bytes]) -> None:
    """Log that a write has made the records of stacks unusable."""
    if is_on():
        _log.debug("invalidates after a write: %s", sorted(stacks))
