"""Signatures of requests by an access key: SDK-HMAC-SHA256, as the vendor's SDK makes them."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote

_ALGORITHM = "SDK-HMAC-SHA256"
# The SDK leaves all other bodies out of the signature.
_HASHED_TYPES = ("application/json", "application/bson")


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What signs a request.

    Attributes:
        access_key: the key's public name (AK).
        secret_key: the secret that signs (SK).
        security_token: sent along with a temporary key; ``None`` for a permanent one.
    """

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)


def sign(  # noqa: PLR0917  # a request and its signer, in the order of HTTP
    key: AccessKey, method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes, now_s: float
) -> list[tuple[str, str]]:
    """Return the fields to add to a request so that it is signed.

    Args:
        key: whose request it is.
        method: the method.
        target: path and query, encoded as they are sent.
        fields: name and value of the fields to sign, each name once, Host among them. Without Content-Type
            every body is signed; with one that is not JSON the SDK signs, and this does, all but the body.
        body: the whole content; ``b""`` for none.
        now_s: Unix time, seconds; AOS accepts a signature for 15 minutes around it.

    Returns:
        X-Sdk-Date, X-Security-Token if the key has one, X-Sdk-Content-Sha256 if the body is not signed, and
        Authorization.
    """
    date = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = [("X-Sdk-Date", date)]
    if key.security_token is not None:
        added.append(("X-Security-Token", key.security_token))
    digest = hashlib.sha256(body).hexdigest()
    content_type = next((value for name, value in fields if name.lower() == "content-type"), "")
    if content_type and not content_type.startswith(_HASHED_TYPES):
        added.append(("X-Sdk-Content-Sha256", "UNSIGNED-PAYLOAD"))
        digest = "UNSIGNED-PAYLOAD" if body else digest
    # Gateways that speak CGI drop names with an underscore.
    lines = sorted((name.lower(), value.strip()) for name, value in (*fields, *added) if "_" not in name)
    signed = ";".join(name for name, _ in lines)
    path, _, query = target.partition("?")
    heads = "".join(f"{name}:{value}\n" for name, value in lines)
    canonical = f"{method.upper()}\n{_path(path)}\n{_query(query)}\n{heads}\n{signed}\n{digest}"
    text = f"{_ALGORITHM}\n{date}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(key.secret_key.encode(), text.encode(), "sha256").hex()
    value = f"{_ALGORITHM} Access={key.access_key}, SignedHeaders={signed}, Signature={signature}"
    return [*added, ("Authorization", value)]


def _path(path: str) -> str:
    """Return the canonical path: decoded, encoded anew and ended by a slash, so that %2F is one too."""
    canonical = quote(unquote(path), safe="/~")
    return canonical if canonical.endswith("/") else f"{canonical}/"


def _query(query: str) -> str:
    """Return the canonical query: pairs in order, decoded and encoded anew; a name alone gets a ``=``."""
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)
