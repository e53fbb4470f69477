"""gateway/README.md agrees with the tree and with the table of rooms."""

import re

from tests.structure.import_rules import PACKAGE, ROOMS
from tests.structure.test_imports import ROOT

FOLDER = ROOT / PACKAGE
TEXT = (FOLDER / "README.md").read_text("utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}")[2].partition("\n## ")[0]


def path_of(room: str) -> str:
    """The path of a room or a module of ROOMS as the map writes it."""
    path = room.removeprefix(f"{PACKAGE}.").replace(".", "/")
    return path if (FOLDER / path).is_dir() else f"{path}.py"


def test_every_room_has_one_line() -> None:
    lines = re.findall(r"^\| `([\w/]+)` \|", section("Rooms"), re.MULTILINE)
    folders = {
        str(file.parent.relative_to(FOLDER)) for file in FOLDER.rglob("*.py") if file.name != "__init__.py"
    }
    assert sorted(lines) == sorted(folders - {"."})


def test_every_path_exists() -> None:
    paths = re.findall(r"`([\w/.]+(?:\.py|/\w+))`", TEXT)
    assert len(paths) > 20
    assert [path for path in paths if not (FOLDER / path).exists() and not (ROOT / path).exists()] == []


def test_the_import_order_is_that_of_the_rules() -> None:
    rows = re.findall(r"^\d+\. (.*)$", section("What may import what"), re.MULTILINE)
    expected = [tuple(path_of(room) for room in row) for row in ROOMS if row != (PACKAGE,)]
    assert [tuple(re.findall(r"`([^`]+)`", row)) for row in rows] == expected


def test_it_fits_on_a_page_and_answers_ten_questions() -> None:
    assert len(re.findall(r"^\| .*\? \|", section("Where would I look for"), re.MULTILINE)) == 10
    assert len(TEXT.splitlines()) < 100
