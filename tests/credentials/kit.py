"""Gateways with credentials of their own."""

from pathlib import Path
from typing import Any

from tests.testbed.client import Headers, RawResponse, fetch
from tests.testbed.gateway import RunningGateway
from tests.testbed.iam import ScriptedIam
from tests.testbed.secrets import token

PASSWORD = "Correct-Horse-Battery-Staple-2026"
ACCESS_KEY, SECRET_KEY = "HPUA1B2C3D4E5F6G7H8I", token("secret key", 40).decode()


def by_password(iam: ScriptedIam, **more: object) -> dict[str, Any]:
    """Settings of a gateway that gets tokens from this IAM, which knows its user."""
    iam.accounts["company", "robot"] = PASSWORD
    credentials = {"source": "password", "domain": "company", "user": "robot", "project": "project-a"}
    named = {f"credentials__{name}": value for name, value in credentials.items()}
    secret = {"credentials__password": PASSWORD, "iam__url": f"http://{iam.address}"}
    return {**named, **secret, **more}


def by_file(path: Path, **more: object) -> dict[str, Any]:
    """Settings of a gateway whose token is in this file."""
    return {"credentials__source": "token-file", "credentials__token_file": str(path), **more}


def by_key(**more: object) -> dict[str, Any]:
    """Settings of a gateway that signs."""
    key = {"credentials__access_key": ACCESS_KEY, "credentials__secret_key": SECRET_KEY}
    return {"credentials__source": "access-key", **key, **more}


async def ask(
    gateway: RunningGateway,
    target: str,
    *headers: tuple[str | bytes, str | bytes],
    method: str = "GET",
    body: bytes | None = None,
) -> RawResponse:
    """Ask without credentials, unless the fields have some."""
    fields: Headers = headers
    return await fetch(gateway.address, target, method=method, headers=fields, body=body)
