"""SECURITY.md names tests and rooms that exist, and every mechanism that tests/mechanisms.py removes."""

import re
from pathlib import Path

from .mechanisms import MECHANISMS, ROOT


def _text() -> str:
    return (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_test_that_is_named_exists() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", _text()))
    assert named
    assert named - defined == set()
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/[\w/.]+)`", _text()))


def test_every_mechanism_that_can_be_removed_is_described_with_its_test() -> None:
    text = _text()
    for mechanism in MECHANISMS:
        assert mechanism.name in text
        assert mechanism.test.rpartition("::")[2] in text


def test_every_mechanism_stands_where_the_script_looks_for_it() -> None:
    for mechanism in MECHANISMS:
        module = Path(ROOT, mechanism.module).read_text("utf-8")
        assert module.count(mechanism.present) == 1, mechanism.name


def test_every_room_that_is_named_exists() -> None:
    rooms = {
        name
        for line in re.findall(r"^\|.*\|$", _text(), re.MULTILINE)
        for name in re.findall(r"`([\w/]+)`", line.split("|")[3])
    }
    assert "core/caching" in rooms
    assert [room for room in rooms if not (ROOT / "gateway" / room / "__init__.py").exists()] == []
