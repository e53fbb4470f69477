"""The public example bodies of AOS, and execution records made from them."""

import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "payloads"
EXECUTION: Final = "execution-single__aos_02_0033_zh-cn_intl_ae-ad-1.json"

STACK_ID: Final = "cb2cdea0-cc70-11e6-8448-0242ac001004"
"""The stack that the example execution belongs to (its objectReference.uid)."""

ACTION_ID: Final = "trim-4074942376"
"""The example execution's own id (its metadata.name)."""

TARGET: Final = f"/v2/stacks/{STACK_ID}/actions/{ACTION_ID}"
"""Where the example execution is fetched."""

ABSENT: Final = object()
"""As a value for `record`: leave the field out."""


def payload_names() -> list[str]:
    """File names of all example bodies, sorted; for parametrised tests."""
    return sorted(path.name for path in FOLDER.glob("*.json"))


def payload(name: str) -> bytes:
    """The exact bytes of an example body.

    Args:
        name: the file name, or a beginning of it that fits one file alone.

    Raises:
        LookupError: no file or several fit.
    """
    fitting = [known for known in payload_names() if known.startswith(name)]
    if name in fitting:
        fitting = [name]
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} payloads begin with {name!r}; there are {payload_names()}")
    return (FOLDER / fitting[0]).read_bytes()


def record(phase: object = "Succeeded", *, name: object = ACTION_ID, **changes: object) -> bytes:
    """Build the body of an execution record from the example execution.

    Args:
        phase: status.objectStatus.phase; any JSON value, or ABSENT.
        name: metadata.name; any JSON value, or ABSENT.
        changes: other fields by their path, two underscores between the steps, each any JSON value or
            ABSENT: `kind=ABSENT`, `status__progress=40`, `spec__onFailureStrategy="Rollback"`,
            `status__subObjectStatuses={"vm": {"phase": "Running"}}`.

    Returns:
        JSON, indented by two blanks like the example.
    """
    document = json.loads(payload(EXECUTION))
    paths = {"metadata__name": name, "status__objectStatus__phase": phase, **changes}
    for path, value in paths.items():
        _put(document, path.split("__"), value)
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _put(document: dict[str, object], steps: list[str], value: object) -> None:
    *way, last = steps
    for step in way:
        below = document.get(step)
        if not isinstance(below, dict):
            if value is ABSENT:
                return
            below = document[step] = {}
        document = below
    if value is ABSENT:
        document.pop(last, None)
    else:
        document[last] = value
