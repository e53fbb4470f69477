"""Types of settings: each checks and converts a raw value."""

import re
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from gateway.config.errors import InvalidValue, shorten, shown_as

_MAX_LIST: Final = 64
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][+-]?[0-9]{1,3})?")


class Rule(Protocol):
    """Turns a raw value into the attribute's value."""

    def read(self, value: object, *, is_text: bool) -> object:
        """Check and convert a TOML value, or raise `InvalidValue`.

        Numbers, booleans and lists are parsed from a text of environment or command line, ``is_text``.
        """


class Number(msgspec.Struct, frozen=True):
    """A number within bounds, both included; the unit, or what is counted, is empty for a fraction."""

    low: float
    high: float
    unit: str = "seconds"
    of: type[float] = float

    def read(self, value: object, *, is_text: bool) -> object:
        kind, written = ("whole number", _INTEGER) if self.of is int else ("number", _DECIMAL)
        if is_text and isinstance(value, str) and written.fullmatch(value.strip()):
            value = self.of(value)
        bounds = f"from {self.low:g} to {self.high:.15g}"
        what = f"{kind} of {self.unit} {bounds}, without unit" if self.unit else f"{kind} {bounds}"
        if isinstance(value, bool) or not isinstance(value, (int, self.of)):
            raise InvalidValue(f"is not a {kind}; write a {what}", shorten(value))
        # Also true of NaN, which compares false.
        if not self.low <= value <= self.high:
            raise InvalidValue(f"is out of range; write a {what}", shorten(value))
        return self.of(value)


class Boolean(msgspec.Struct, frozen=True):
    """A bool."""

    def read(self, value: object, *, is_text: bool) -> object:
        if is_text and isinstance(value, str) and value.strip().lower() in {"true", "false"}:
            value = value.strip().lower() == "true"
        if not isinstance(value, bool):
            raise InvalidValue("is neither true nor false; write one of them", shorten(value))
        return value


class Enum(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object, *, is_text: bool) -> object:
        if not isinstance(value, str) or value not in self.words:
            words = " or ".join(f'"{word}"' for word in self.words)
            raise InvalidValue(f"is unknown; write {words}", shorten(value))
        return value


class String(msgspec.Struct, frozen=True):
    """A text converted by a function, which may raise `InvalidValue`.

    Attributes:
        is_secret: its value is never shown.
        is_optional: an empty one stays as it is.
    """

    of: Callable[[str], object]
    is_secret: bool = False
    is_optional: bool = False

    def read(self, value: object, *, is_text: bool) -> object:
        shown = "***" if self.is_secret else shorten(value)
        if not isinstance(value, str):
            raise InvalidValue("is not a text; write it in quotes", shown)
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidValue("is not valid UTF-8; write it as UTF-8 text", shown) from exc
        with shown_as(shown):
            return self.of(value) if value or not self.is_optional else value


class StringList(msgspec.Struct, frozen=True):
    """A list of distinct texts: each is converted, then the whole; both may raise `InvalidValue`."""

    of: Callable[[str], str]
    whole: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple

    def read(self, value: object, *, is_text: bool) -> object:
        if is_text and isinstance(value, str):
            value = [item.strip() for item in value.split(",")] if value.strip() else []
        if not isinstance(value, list | tuple):
            raise InvalidValue(
                'is not a list; write ["one", "two"], or one,two in the environment', shorten(value)
            )
        if len(value) > _MAX_LIST:
            raise InvalidValue(f"is too long; write at most {_MAX_LIST}", f"{len(value)} items")
        items: list[str] = []
        for item in value:
            if not isinstance(item, str):
                raise InvalidValue("is not a text; write each item in quotes", shorten(item))
            with shown_as(shorten(item)):
                items.append(self.of(item))
        folded = [item.lower() for item in items]
        for item, low in zip(items, folded, strict=True):
            if folded.count(low) > 1:
                raise InvalidValue("is in the list twice; remove one", shorten(item))
        return self.whole(tuple(items))
