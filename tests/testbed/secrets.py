"""Looking for pieces of a token in anything that must not know it."""

import base64
import hashlib
from collections.abc import Iterator

WINDOW_BYTES = 16
_URLSAFE = bytes.maketrans(b"+/", b"-_")


def token(name: str, size_bytes: int = 2048) -> bytes:
    """A token that looks like one of IAM: same name, same token.

    Args:
        name: whose it is.
        size_bytes: how long.
    """
    return base64.b64encode(hashlib.shake_256(name.encode()).digest(size_bytes))[:size_bytes]


def pieces(secret: bytes) -> set[bytes]:
    """Every 16-byte window of a secret, plain, in hex and in base64.

    Args:
        secret: the secret; a shorter one is its own single window.

    Returns:
        Each window plain, in lower- and upper-case hex, and in base64 (both alphabets) as it looks at each
        of the three alignments it can have in a longer text, less the characters its neighbours decide.
    """
    found: set[bytes] = set()
    for window in _windows(secret, min(WINDOW_BYTES, len(secret))):
        found.update((window, window.hex().encode(), window.hex().upper().encode()))
        for before in range(3):
            # A character is the window's own when all of its six bits are.
            first, end = -(-8 * before // 6), 8 * (before + len(window)) // 6
            text = base64.b64encode(b"\0" * before + window)[first:end]
            found.update((text, text.translate(_URLSAFE)))
    return found


def assert_absent(haystack: bytes, secret: bytes) -> None:
    """Assert that no 16-byte piece of the secret stands in the haystack, in any form of `pieces`.

    Args:
        haystack: a log, a database, a response.
        secret: the secret.

    Raises:
        AssertionError: a piece is there; the text says where, without the piece.
    """
    by_length: dict[int, set[bytes]] = {}
    for piece in pieces(secret):
        by_length.setdefault(len(piece), set()).add(piece)
    for length, wanted in by_length.items():
        at = _first(haystack, wanted, length)
        assert at is None, f"{length} bytes at offset {at} of {len(haystack)} are a piece of the secret"


def _first(haystack: bytes, wanted: set[bytes], length: int) -> int | None:
    # Each window of this length contains a whole block of half its length that starts on a multiple of the
    # step, so only those blocks are looked at; whole windows are compared around one that is known.
    block = (length + 1) // 2
    step = length - block + 1
    known = {part for piece in wanted for part in _windows(piece, block)}
    for start in range(0, len(haystack) - block + 1, step):
        if haystack[start : start + block] in known:
            for at in range(max(0, start - step + 1), start + 1):
                if haystack[at : at + length] in wanted:
                    return at
    return None


def _windows(text: bytes, length: int) -> Iterator[bytes]:
    return (text[start : start + length] for start in range(len(text) - length + 1))
