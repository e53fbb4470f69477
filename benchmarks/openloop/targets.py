"""What is asked for: targets with their weights, read from JSON lines."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Annotated, Final, TypeVar

import msgspec

# Nothing that would make it another request: blanks, line ends.
RequestPath = Annotated[str, msgspec.Meta(pattern=r"^/[\x21-\x7e]*\Z")]
Token = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]+\Z")]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to ask for.

    Attributes:
        target: the request target, such as ``/v2/stacks/a/actions/b``.
        token: sent as ``X-Auth-Token``; ``None`` takes the run's own, if it has one.
        weight: how often it is chosen, beside the others' weights.
    """

    target: RequestPath
    token: Token | None = None
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class BadTargetsError(ValueError):
    """The file of targets cannot be used; the text is one line with the reason."""


_LINE: Final = msgspec.json.Decoder(Target)
_T = TypeVar("_T")


def read_targets(path: Path) -> list[Target]:
    """Read targets, one JSON object a line.

    Raises:
        BadTargetsError: the file cannot be read, a line is none, or there is no line.
    """
    return read_lines(path, _LINE)


def read_lines(path: Path, decoder: msgspec.json.Decoder[_T]) -> list[_T]:
    """Read targets of some form, one JSON object a line; empty lines do not count.

    Raises:
        BadTargetsError: the file cannot be read, a line is none, or there is no line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise BadTargetsError(f"{path}: {exc.strerror}") from exc
    targets = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                targets.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise BadTargetsError(f"{path}, line {number}: {exc}") from exc
    if not targets:
        raise BadTargetsError(f"{path}: no targets")
    return targets


class Chooser:
    """Draws targets by weight; the same seed draws the same ones."""

    def __init__(self, targets: Sequence[Target], seed: int) -> None:
        self._edges = list(accumulate(target.weight for target in targets))
        self._rng = Random(f"{seed}/targets")

    def next(self) -> int:
        """Return the index of the next target."""
        drawn = self._rng.random() * self._edges[-1]
        return min(bisect_right(self._edges, drawn), len(self._edges) - 1)
