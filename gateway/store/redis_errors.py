"""Classifies errors: no reply, one command refused by Redis, or the wrong server."""

import re
from collections.abc import Iterator, Sequence

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

# A server that does not know AUTH repeats its arguments: long ones cut off, line ends as blanks.
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_CLUSTER = "a node of a Redis Cluster: write redis+cluster://host,host in redis.url; "
_SENTINEL = "a Sentinel: write redis+sentinel://host,host,host/SERVICE in redis.url; "
# A node of a Cluster says so of one slot.
_REDIRECTS = {"MOVED", "ASK", "TRYAGAIN"}
# With these, every command on this server fails in the same way.
_WRONG_SERVER = {
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "READONLY": "a replica; ",
    "MASTERDOWN": "a replica without its master; ",
    "LOADING": "",
    # A master without its replicas: it may have been replaced.
    "NOREPLICAS": "",
}
_BY_TEXT = {
    # Only a Sentinel lacks such basic commands.
    "unknown command": _SENTINEL,
    "SELECT is not allowed in cluster mode": _CLUSTER,
}


class StoreError(Exception):
    """An operation failed.

    Attributes:
        kind: for metrics: ``timeout``, ``connection``, ``answer``, or ``open`` when the breaker was.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class PartlyRefused(ResponseError):
    """Redis refused some commands of a round trip; the cause is the `worst` error, the replies are all."""

    def __init__(self, replies: Sequence[object]) -> None:
        super().__init__()
        self.replies = replies


def worst(errors: Sequence[ResponseError]) -> ResponseError:
    """Return the first that shows a wrong server, otherwise the first."""
    return next((one for one in errors if wrong_server(one) is not None), errors[0])


def kind_of(error: BaseException) -> str:
    """Return the short name of a failure: ``timeout``, ``connection`` or ``answer``."""
    if isinstance(error, TimeoutError | aioredis.TimeoutError):
        return "timeout"
    return "connection" if isinstance(error, aioredis.ConnectionError | OSError) else "answer"


def is_answer(error: BaseException) -> bool:
    """Whether the error is a reply of Redis itself."""
    return any(
        isinstance(one, ResponseError) or getattr(one, "status_code", None) is not None
        for one in _with_causes(error)
    )


def wrong_server(error: BaseException) -> str | None:
    """Describe the wrong server: text for the log, may be ""; ``None`` when the server is the right one."""
    for one in _with_causes(error):
        code, text = _code_and_text(one)
        if code in _WRONG_SERVER:
            return _WRONG_SERVER[code]
        for beginning, what in _BY_TEXT.items():
            if isinstance(one, ResponseError) and text.startswith(beginning):
                return what
    return None


def is_redirect(error: BaseException) -> bool:
    """Whether a node of a Cluster says that another one has the slot, or is about to get it."""
    return any(_code_and_text(one)[0] in _REDIRECTS for one in _with_causes(error))


def error_text(error: BaseException, password: str = "") -> str:
    """Return the error text of Redis with the class of the error, for the log; the password is masked."""
    for one in _with_causes(error):
        if isinstance(one, ResponseError):
            error = one
    code, text = _code_and_text(error)
    text = _ARGUMENTS.sub("", text)
    if password:
        text = text.replace(password, "***")
    reply = " ".join(part for part in (code, text) if part)
    name = type(error).__name__
    return f"{reply} ({name})" if reply else name


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code_and_text(error: BaseException) -> tuple[str, str]:
    text = str(error)
    # The library cuts it off the text of some errors.
    code = getattr(error, "status_code", None)
    if isinstance(code, str):
        return code, text
    if isinstance(error, ResponseError):
        first, _, rest = text.partition(" ")
        if first.isupper() and first.isalpha():
            return first, rest
    return "", text
