"""The message that replicas exchange when a stack was written to."""

import re

import msgspec

_MAX_BYTES = 512
_STACK = re.compile(r"[a-z0-9._~-]{1,64}")


class InvalidationMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invalidation, published as JSON.

    Attributes:
        stack: the case-folded stack id.
        age_s: seconds since the response to the write; the same write's age when the message is repeated.
        settles: the write takes effect after its response; false for a purge.
        sender: the replica that publishes.
    """

    stack: str
    age_s: float
    settles: bool
    sender: str


_decoder = msgspec.json.Decoder(InvalidationMessage)


def read_message(data: bytes) -> InvalidationMessage | None:
    """Parse published bytes; ``None`` for anything else than a valid message."""
    if len(data) > _MAX_BYTES:
        return None
    try:
        message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return message if _STACK.fullmatch(message.stack) and message.age_s >= 0 else None
