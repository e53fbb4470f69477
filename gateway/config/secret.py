"""A configured text that must not be shown."""

from typing import Final, final


@final
class Secret:
    """A text that only `reveal` returns; false when empty."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value: Final = value

    def reveal(self) -> str:
        """Return the secret itself; call it only where the secret is used."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __str__(self) -> str:
        return "***" if self._value else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))
