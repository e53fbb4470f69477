"""What replicas tell each other when a stack was written to."""

from __future__ import annotations

import re

import msgspec

_MAX_NOTE_BYTES = 512
_STACK = re.compile(r"[a-z0-9._~-]{1,64}")


class InvalidationMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One forget, as published.

    Attributes:
        stack: the case-folded stack id.
        age_s: seconds since the write was answered; a repeated note tells the write's age, not its own.
        settles: the write takes effect later than its answer; false for a purge.
        sender: the replica that publishes.
    """

    stack: str
    age_s: float
    settles: bool
    sender: str


_decoder = msgspec.json.Decoder(InvalidationMessage)
_encoder = msgspec.json.Encoder()


def write_message(note: InvalidationMessage) -> bytes:
    """Return a note's bytes."""
    return _encoder.encode(note)


def read_message(data: bytes) -> InvalidationMessage | None:
    """Return the note in published bytes; ``None`` for anything that is not one."""
    if len(data) > _MAX_NOTE_BYTES:
        return None
    try:
        note = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return note if _STACK.fullmatch(note.stack) and note.age_s >= 0 else None
