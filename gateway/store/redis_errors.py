"""What Redis's errors mean: silence, a refusal of one command, or a server that is the wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

# A pipeline puts the command in front, with the beginning of its values.
_OF_PIPELINE = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_CLUSTER = "a node of a Redis Cluster, which is not supported yet (redis+cluster:// will be); "
_SENTINEL = "a Sentinel, which is not supported yet (redis+sentinel:// will be); "
# Each answers every request alike, as long as one stays connected to this server.
_WRONG_SERVER = {
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "READONLY": "a replica; ",
    "MASTERDOWN": "a replica without its master; ",
    "LOADING": "",
    # A former master that has lost its replicas, and perhaps its place.
    "NOREPLICAS": "",
}
_BY_TEXT = {
    # What it does not know are the plainest commands there are.
    "unknown command": _SENTINEL,
    "SELECT is not allowed in cluster mode": _CLUSTER,
}


class PartlyRefused(ResponseError):
    """Redis has refused some of several commands; caused by the `worst` refusal.

    Attributes:
        replies: to all of them, in order.
    """

    def __init__(self, replies: Sequence[object]) -> None:
        super().__init__()
        self.replies = replies


def worst(refusals: Sequence[ResponseError]) -> ResponseError:
    """Return the one that tells most: of a server that is to be left, if one does."""
    return next((one for one in refusals if wrong_server(one) is not None), refusals[0])


def kind_of(error: BaseException) -> str:
    """Return the short name of a failure: ``timeout``, ``connection`` or ``answer``."""
    match error:
        case TimeoutError() | aioredis.TimeoutError():
            return "timeout"
        case aioredis.ConnectionError() | OSError():
            return "connection"
        case _:
            return "answer"


def is_answer(error: BaseException) -> bool:
    """Tell whether Redis itself has said no."""
    return any(
        isinstance(one, ResponseError) or getattr(one, "status_code", None) is not None
        for one in _with_causes(error)
    )


def wrong_server(error: BaseException) -> str | None:
    """Return what is known of a server that is to be left, "" for nothing, or ``None`` when it is not."""
    for one in _with_causes(error):
        code, text = _code_and_text(one)
        if code in _WRONG_SERVER:
            return _WRONG_SERVER[code]
        for beginning, what in _BY_TEXT.items():
            if isinstance(one, ResponseError) and text.startswith(beginning):
                return what
    return None


def words_of(error: BaseException, password: str = "") -> str:
    """Return the other side's own words with the class of the error, for the log.

    Args:
        error: as the library raised it; it has cut the code off the words.
        password: does not appear in them; "" for none.
    """
    for one in _with_causes(error):
        if isinstance(one, ResponseError):
            error = one
    code, text = _code_and_text(error)
    if password:
        # A server that does not know AUTH repeats what it was sent.
        text = text.replace(password, "***")
    said = " ".join(part for part in (code, text) if part)
    name = type(error).__name__
    return f"{said} ({name})" if said else name


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code_and_text(error: BaseException) -> tuple[str, str]:
    text = _OF_PIPELINE.sub("", str(error))
    code = getattr(error, "status_code", None)
    if isinstance(code, str):
        return code, text
    if isinstance(error, ResponseError):
        first, _, rest = text.partition(" ")
        if first.isupper() and first.isalpha():
            return first, rest
    return "", text
