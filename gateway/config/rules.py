"""Rules of single settings: each checks a text and converts it."""

import codecs
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.config.address import VISIBLE, is_loopback_host, upstream_url_of
from gateway.config.errors import InvalidValue, shorten
from gateway.config.secret import Secret
from gateway.core.http.fields import is_sent_unchanged
from gateway.core.http.forwarded import UNIX, network_of

_BEGINNING_BYTES: Final = 64
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PHASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# token of RFC 9110 section 5.6.2.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
# A method, and a path of plain segments (RFC 3986 section 3.3 without what needs decoding or parameters).
_ALLOWED = re.compile(r"[A-Z]{3,16} (?:/(?!\.{1,2}(?:/|$))(?:\*|[A-Za-z0-9._~!$&'()+,=:@-]+))+")
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~%/-]*)?")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "is UTF-32 text"),
    (codecs.BOM_UTF32_BE, "is UTF-32 text"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text"),
    (codecs.BOM_UTF8, "starts with a byte order mark (BOM)"),
)


def phase_of(text: str) -> str:
    if not _PHASE.fullmatch(text):
        raise InvalidValue('is not a phase; write it as AOS does, like "Succeeded"')
    # In AOS every phase named ...ing is in progress, and a paused execution can resume.
    if text.lower().endswith("ing") or text.lower() == "paused":
        raise InvalidValue("is a phase in progress, whose records still change; remove it")
    return text


def some_phases(phases: tuple[str, ...]) -> tuple[str, ...]:
    if not phases:
        raise InvalidValue('is empty, so nothing could be stored; name at least "Succeeded"', "[]")
    return phases


def field_name_of(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text):
        raise InvalidValue("is not a header name; write a name like X-Project-Id")
    folded = text.lower().replace("_", "-")
    if folded == "authorization":
        raise InvalidValue("always bypasses the cache, so it can't separate callers; remove it")
    # The response can't depend on a value that the upstream does not receive.
    if not is_sent_unchanged(folded.encode("ascii")):
        raise InvalidValue("does not reach the upstream as the caller sent it; remove it")
    if folded == "x-auth-token" and text.lower() != folded:
        raise InvalidValue("looks like X-Auth-Token, which always counts; remove it")
    return text


def distinct_fields(names: tuple[str, ...]) -> tuple[str, ...]:
    folded = [name.lower().replace("_", "-") for name in names]
    for name, fold in zip(names, folded, strict=True):
        if folded.count(fold) > 1:
            raise InvalidValue(
                "differs from another name in the list by - and _ alone; remove one", shorten(name)
            )
    # X-Auth-Token always counts; listing it is harmless.
    return tuple(name for name in names if name.lower() != "x-auth-token")


def prefix_of(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise InvalidValue("is not a prefix; write 1 to 64 of A-Z a-z 0-9 _ . : -")
    return text


def secret_of(text: str) -> Secret:
    if not VISIBLE.fullmatch(text):
        raise InvalidValue(
            "holds a blank, control or non-ASCII character; use printable ASCII, like hex or base64"
        )
    return Secret(text)


def visible_of(text: str) -> str:
    if not VISIBLE.fullmatch(text):
        raise InvalidValue("holds a blank, control or non-ASCII character; write it as IAM shows it")
    return text


def name_of(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise InvalidValue("is not a name; write it without blanks around it")
    return text


def iam_url_of(text: str) -> str:
    url = upstream_url_of(text)
    if url.scheme != "https" and not is_loopback_host(url.host):
        raise InvalidValue("would send tokens unencrypted; write https://", shorten(str(url)))
    return str(url)


def allowed_of(text: str) -> str:
    if not _ALLOWED.fullmatch(text):
        raise InvalidValue('is no method and path; write it like "GET /v2/stacks/*", where * is one segment')
    if text.startswith("HEAD "):
        raise InvalidValue("is allowed with GET; write GET")
    return text


def proxy_of(text: str) -> str:
    if text == UNIX:
        return text
    try:
        network = network_of(text)
    except ValueError as exc:
        raise InvalidValue(
            'is no address or network; write it like "10.0.0.1", "10.0.0.0/8" or "unix"'
        ) from exc
    return str(network.network_address if network.num_addresses == 1 else network)


def ca_file_of(text: str) -> str:
    file_of(text)
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=text)
    except (ssl.SSLError, ValueError) as exc:
        raise InvalidValue("holds no certificates; name a PEM file with the CA certificates") from exc
    return text


def file_of(text: str, kind: str = "PEM file") -> str:
    try:
        with Path(text).open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no valid path"
        raise InvalidValue(f"can't be read ({reason}); name a readable {kind}") from exc
    if (fault := encoding_fault(beginning)) is not None:
        raise InvalidValue(fault)
    return text


def encoding_fault(content: bytes) -> str | None:
    """Return why a file that begins with these bytes has a byte order mark, and the remedy, or ``None``."""
    fault = next((fault for mark, fault in _MARKS if content.startswith(mark)), None)
    return None if fault is None else f"{fault}; save it as UTF-8 without BOM"


def endpoint_of(text: str) -> str:
    if not _ENDPOINT.fullmatch(text):
        remedy = "write http:// or https://, a host and a path, without user and query, like"
        raise InvalidValue(f"is no endpoint; {remedy} http://127.0.0.1:4318/v1/traces")
    try:
        is_there = all(
            find_spec(f"opentelemetry.{name}") for name in ("sdk.trace", "exporter.otlp.proto.http")
        )
    except ImportError:
        is_there = False
    if not is_there:
        raise InvalidValue("needs OpenTelemetry; install aos-gateway[otel]")
    return text
