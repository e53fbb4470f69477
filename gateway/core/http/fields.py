"""Which fields travel: hop-by-hop removal, what a stored entry keeps, what a 304 repeats (RFC 9110 §7.6)."""

import re

from gateway.core.http.messages import Fields, IndexedFields, members, values
from gateway.core.http.target import METHOD_OVERRIDES

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"expect"}
"""Fields of a request that the gateway drops or replaces by its own."""

CONDITIONAL_PREFIX = b"if-"
FORWARDED = (
    (b"x-forwarded-for", b"X-Forwarded-For"),
    (b"x-forwarded-proto", b"X-Forwarded-Proto"),
    (b"x-forwarded-host", b"X-Forwarded-Host"),
)
"""Lower-case names of the fields that say where a request came from, and how the gateway writes them."""

VARIANT = frozenset({b"accept", b"accept-encoding", b"accept-language", b"x-language"})

# Fields about one exchange or one caller's quota, meaningless in a later hit.
_NOT_KEPT = frozenset(
    {
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"traceresponse",
        b"b3",
        b"x-trace-id",
        b"x-amzn-trace-id",
        b"uber-trace-id",
        b"server-timing",
        b"retry-after",
        b"proxy-status",
        b"via",
        b"age",
    }
)
_NOT_KEPT_PREFIXES = (b"ratelimit", b"x-ratelimit", b"x-b3-")
# RFC 9110 §15.4.5, and Age: without it a cache downstream would take an old record for a new one.
_IN_NOT_MODIFIED = frozenset(
    {
        b"age",
        b"cache-control",
        b"cdn-cache-control",
        b"content-location",
        b"date",
        b"etag",
        b"expires",
        b"vary",
    }
)

_NO_NAMES: frozenset[bytes] = frozenset()
# Equal in every fetch for the cache: dropped, replaced by the gateway's own, or a reason not to look up.
_UNIFORM = NOT_FORWARDED | METHOD_OVERRIDES | {b"authorization", b"prefer", b"range"}
_REWRITTEN = frozenset(
    {b"accept-encoding", b"content-length", b"via", b"x-request-id", *(name for name, _ in FORWARDED)}
)


def nominated(fields: Fields) -> frozenset[bytes]:
    """Return the lower-case names that the ``Connection`` fields name."""
    if not values(fields, b"connection"):
        return _NO_NAMES
    return frozenset(name.lower() for name in members(fields, b"connection"))


def end_to_end(fields: Fields) -> Fields:
    """Return the fields without the hop-by-hop ones and those ``Connection`` names (RFC 9110 §7.6.1)."""
    if not isinstance(fields, IndexedFields):
        fields = IndexedFields(fields)
    if HOP_BY_HOP.isdisjoint(fields.by_name):
        return fields
    if fields.end_to_end is None:
        fields.end_to_end = fields.without(HOP_BY_HOP | nominated(fields))
    return fields.end_to_end


def is_uniform(name: bytes) -> bool:
    """Tell whether every fetch for the cache sends the same value of a field, named in lower case."""
    return name in _UNIFORM or name.startswith(CONDITIONAL_PREFIX)


def is_sent_unchanged(name: bytes) -> bool:
    """Tell whether a fetch for the cache sends a field, named in lower case, as the caller sent it."""
    return name not in _REWRITTEN and not is_uniform(name)


def accepts_gzip(fields: Fields) -> bool:
    """Tell whether ``Accept-Encoding`` accepts ``gzip`` (RFC 9110 §12.5.3); an absent field does not."""
    wildcard = False
    for member in members(fields, b"accept-encoding"):
        coding, _, parameters = member.partition(b";")
        accepted = not re.fullmatch(rb"\s*q=0(\.0*)?\s*", parameters, re.IGNORECASE)
        match coding.strip().lower():
            case b"gzip" | b"x-gzip":
                return accepted
            case b"*":
                wildcard = accepted
    return wildcard


def kept_fields(fields: Fields) -> Fields:
    """Return the end-to-end fields that a stored entry keeps."""
    return tuple(
        field
        for field in end_to_end(fields)
        if (name := field[0].lower()) not in _NOT_KEPT and not name.startswith(_NOT_KEPT_PREFIXES)
    )


def not_modified_fields(fields: Fields) -> Fields:
    """Return the fields of a 200 that a 304 in its place repeats (RFC 9110 §15.4.5)."""
    return tuple(field for field in fields if field[0].lower() in _IN_NOT_MODIFIED)
