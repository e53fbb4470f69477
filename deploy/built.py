"""Builds the kustomizations; and the error of a failed check."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
BUILT = (
    "base",
    "overlays/redis",
    "overlays/sidecar",
    "overlays/monitoring",
    "overlays/complete",
    "overlays/fleet",
    "overlays/openshift",
)
TOOLS = Path(sys.executable).parent


class Wrong(Exception):
    """A file is wrong; the text says where and why."""


def need(where: str, is_so: bool, otherwise: str) -> None:
    """Raise `Wrong` unless a condition holds."""
    if not is_so:
        raise Wrong(f"{where}: {otherwise}")


_built: dict[Path, list[dict[str, Any]]] = {}


def build(folder: Path) -> list[dict[str, Any]]:
    """Build a kustomization with kubectl's own kustomize."""
    if folder not in _built:
        done = subprocess.run(
            [TOOLS / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False
        )
        need(str(folder), done.returncode == 0, done.stderr.strip())
        _built[folder] = [document for document in yaml.safe_load_all(done.stdout) if document]
    return _built[folder]
