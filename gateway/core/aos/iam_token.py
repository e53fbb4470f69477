"""What IAM says of a token (API page "Verifying a token")."""

import json
from datetime import datetime
from hashlib import blake2b
from typing import Any

import msgspec

MAX_BYTES = 262_144
"""Bound of IAM's answer."""

# Different for each token of a user.
_OF_ONE_TOKEN = frozenset({"expires_at", "issued_at", "catalog", "audit_ids"})
_UNORDERED = frozenset({"roles", "methods"})
# When the second factor was given differs, that it was does not.
_PRESENCE_COUNTS = frozenset({"mfa_authn_at"})


class TokenOwner(msgspec.Struct, frozen=True):
    """Whose a token is.

    Attributes:
        user: digest of everything that IAM says of the token but what differs between tokens of one user.
        expires_s: when the token ends, seconds since the epoch.
    """

    user: bytes
    expires_s: float


def token_owner(body: bytes) -> TokenOwner | None:
    """Return whose a token is; ``None`` unless the body of a 200 says so beyond doubt.

    Whatever IAM adds later makes another owner, never the same one.
    """
    if len(body) > MAX_BYTES:
        return None
    try:
        parsed = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse,
        )
        token = parsed["token"]
        expires = datetime.fromisoformat(token["expires_at"])
        if type(token["user"]["id"]) is not str or not token["user"]["id"] or expires.tzinfo is None:
            return None
        described = {
            name: _described(name, value) for name, value in token.items() if name not in _OF_ONE_TOKEN
        }
        canonical = _canonical(described).encode("ascii")
        user = blake2b(canonical, digest_size=32, person=b"aosgw-user").digest()
        return TokenOwner(user, expires.timestamp())
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return None


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _described(name: str, value: Any) -> Any:
    if name in _PRESENCE_COUNTS:
        return True
    if name in _UNORDERED and isinstance(value, list):
        return sorted(value, key=_canonical)
    return value


def _canonical(value: Any) -> str:
    """Return a text that is different for each value, and the same for objects in any order."""
    match value:
        case dict():
            members = sorted((_canonical(name), _canonical(member)) for name, member in value.items())
            return "{" + ",".join(f"{name}:{member}" for name, member in members) + "}"
        case list():
            return "[" + ",".join(map(_canonical, value)) + "]"
        case _Number():
            return str(value)
        case _:
            return json.dumps(value)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
