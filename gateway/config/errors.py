"""Errors of the configuration."""

import contextlib
from collections.abc import Iterator

_SHOWN_CHARACTERS = 80


class ConfigError(Exception):
    """A setting that prevents the start; its text is one line with the key, the value and the remedy.

    The text never contains a secret: the code that raises it leaves the value out.
    """

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


class InvalidValue(ValueError):
    """A value that a rule does not accept; the key is added by `gateway.config.load`.

    Attributes:
        remedy: what is wrong with it and what to write instead.
        value: the value as it may be shown (see `shorten`); "***" for a secret; "" leaves it to `shown_as`.
    """

    def __init__(self, remedy: str, value: str = "") -> None:
        super().__init__(remedy)
        self.remedy = remedy
        self.value = value


@contextlib.contextmanager
def shown_as(value: str) -> Iterator[None]:
    """Show this as the value of an `InvalidValue` that has none."""
    try:
        yield
    except InvalidValue as exc:
        exc.value = exc.value or value
        raise


def one_line(text: str) -> str:
    """Return a text with "?" for every unprintable character, so that it stays one line on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shorten(value: object, at_most: int = _SHOWN_CHARACTERS) -> str:
    """Return the `repr` of a value that is no secret, cut to this many characters and "..."."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python writes out
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= at_most else text[:at_most] + "..."
