"""The origin's word on storing (RFC 9111): Cache-Control and its like, Expires, Pragma, Age, Vary."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

import msgspec

from gateway.core.caching.cache_status import Reason
from gateway.core.http.dates import single_date_s
from gateway.core.http.fields import VARIANT, is_uniform
from gateway.core.http.messages import Fields, first, members, names, values

# Nothing in it gives back what it took: a field of blanks costs its length, not the square of it.
_DIRECTIVE = re.compile(
    rb"""([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:=("(?:[^"\\]|\\.)*+"|[^\s",;]++))?[ \t]*+(?:,[ \t,]*+|\Z)"""
)
_SECONDS = re.compile(rb"[0-9]+")
_LONGEST_S = 2**31
_CACHE_CONTROL = b"cache-control"
# What an origin says to proxies like this one alone: RFC 9213, and the W3C note that came before it.
_AIMED_AT_PROXIES = (b"cdn-cache-control", b"surrogate-control")

Directives = dict[bytes, list[bytes | None]]
"""Lower-case directive names with their arguments, unquoted; ``None`` without one."""


class OriginFreshness(msgspec.Struct, frozen=True, gc=False):
    """What the upstream's head says about storing.

    Attributes:
        refusal: why not to store; ``None`` when nothing forbids it.
        lifetime_s: how long it may be called fresh, the Age it came with taken off; ``None`` when
            the origin names no time.
    """

    refusal: Reason | None
    lifetime_s: float | None


_SILENT = OriginFreshness(None, None)


def parse_directives(lines: Sequence[bytes]) -> Directives | None:
    """Parse ``Cache-Control`` lines (RFC 9111 §5.2); ``None`` when they cannot be read."""
    found: Directives = {}
    for line in lines:
        rest = line.lstrip(b" \t,")
        position = 0
        while position < len(rest):
            match = _DIRECTIVE.match(rest, position)
            if match is None:
                return None
            position = match.end()
            argument = match[2]
            if argument is not None and argument.startswith(b'"'):
                argument = re.sub(rb"\\(.)", rb"\1", argument[1:-1])
            found.setdefault(match[1].lower(), []).append(argument)
    return found


def seconds(arguments: list[bytes | None]) -> int | None:
    """Return the smallest of a directive's delta-seconds; ``None`` when one cannot be read."""
    if not all(argument is not None and _SECONDS.fullmatch(argument) for argument in arguments):
        return None
    return min(_delta(argument) for argument in arguments if argument is not None)


def upstream_age_s(fields: Fields) -> int | None:
    """Return the Age a response came with, 0 without one; ``None`` when it cannot be read."""
    found = members(fields, b"age")
    if not found:
        return 0
    return _delta(found[0]) if _SECONDS.fullmatch(found[0]) else None


def origin_freshness(fields: Fields, now_s: float) -> OriginFreshness:
    """Judge what the origin says (``origin_cache_control = "obey"``).

    Args:
        fields: the response's fields, hop-by-hop ones included, so that none can hide another.
        now_s: wall clock of the fetch, in place of a missing ``Date``.
    """
    if _SPEAKING.isdisjoint(names(fields)):
        return _SILENT
    age_s = upstream_age_s(fields)
    if age_s is None:
        return OriginFreshness(Reason.UNREADABLE_FRESHNESS, None)
    limits: list[float] = []
    for name in (_CACHE_CONTROL, *_AIMED_AT_PROXIES):
        lines = values(fields, name)
        directives = parse_directives(lines)
        if directives is None:
            return OriginFreshness(Reason.UNREADABLE_FRESHNESS, None)
        for directive, reason in _REFUSING.items():
            if directive in directives:
                return OriginFreshness(reason, None)
        named: list[int] = []
        for directive in (b"s-maxage", b"max-age"):
            if directive in directives:
                limit = seconds(directives[directive])
                if limit is None:
                    return OriginFreshness(Reason.UNREADABLE_FRESHNESS, None)
                named.append(limit)
        # ``s-maxage`` is meant for shared caches and stands above ``max-age``.
        limits.extend(named[:1])
        if name != _CACHE_CONTROL:
            continue
        if not lines and b"no-cache" in _pragma(fields):
            return OriginFreshness(Reason.NO_CACHE, None)
        # Only a time in Cache-Control itself stands above Expires; the strictest of the fields wins.
        if not named and first(fields, b"expires") is not None:
            lifetime_s = _expires_s(fields, now_s)
            if lifetime_s is None:
                return OriginFreshness(Reason.UNREADABLE_FRESHNESS, None)
            limits.append(lifetime_s)
    if not limits:
        return OriginFreshness(None, None)
    lifetime_s = min(limits) - age_s
    return OriginFreshness(None if lifetime_s > 0 else Reason.EXPIRED, lifetime_s)


def unmet_vary(response: Fields, request: Fields, covered: Container[bytes]) -> bytes | None:
    """Return what of ``Vary`` keeps an answer from other requests for the same (RFC 9111 §4.1).

    Met are the fields that the variant covers, ``Origin`` where the request has none, which the variant
    covers too, and those that the upstream sees alike in every fetch for the cache.

    Args:
        response: the response's fields.
        request: the end-to-end fields of the request it answers.
        covered: names of further fields that the requests in question have in common.

    Returns:
        The first name that is not met, in lower case, or ``*``; ``None`` when all are.
    """
    for member in members(response, b"vary"):
        name = member.lower()
        if name == b"origin" and first(request, b"origin") is None:
            continue
        if not (name in VARIANT or name in covered or is_uniform(name)):
            return name
    return None


def varies_on_accept(response: Fields) -> bool:
    """Tell whether ``Vary`` names ``Accept``, so that not even those that prefer JSON are alike."""
    return any(member.lower() == b"accept" for member in members(response, b"vary"))


# Without any of these the origin has said nothing.
_SPEAKING = frozenset({_CACHE_CONTROL, *_AIMED_AT_PROXIES, b"pragma", b"expires", b"age"})
# ``must-understand`` asks for a cache that knows the status code; only 200 is ever stored, and known.
_REFUSING = {b"no-store": Reason.NO_STORE, b"private": Reason.PRIVATE, b"no-cache": Reason.NO_CACHE}


def _pragma(fields: Fields) -> set[bytes]:
    return {member.lower() for member in members(fields, b"pragma")}


def _delta(digits: bytes) -> int:
    # Longer numbers than this are past the range anyway, and int() refuses thousands of digits.
    return min(int(digits), _LONGEST_S) if len(digits) < 16 else _LONGEST_S


def _expires_s(fields: Fields, now_s: float) -> float | None:
    """Return the seconds from ``Date`` to ``Expires``; ``None`` when they cannot be read."""
    expires_s = single_date_s(fields, b"expires", now_s)
    sent_s = now_s if first(fields, b"date") is None else single_date_s(fields, b"date", now_s)
    return None if expires_s is None or sent_s is None else expires_s - sent_s
