"""Numbers on command lines: those that would measure nothing are refused."""

from argparse import ArgumentTypeError


def positive(text: str) -> float:
    """Read a finite number above 0, such as seconds or a rate.

    Raises:
        ArgumentTypeError: it is none; argparse names the option.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number


def count(text: str) -> int:
    """Read a whole number of 1 or more, such as rounds or connections.

    Raises:
        ArgumentTypeError: it is none; argparse names the option.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)
