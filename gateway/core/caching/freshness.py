"""Freshness as the origin declares it (RFC 9111): Cache-Control, Expires, Pragma, Age, Vary."""

import re
from collections.abc import Container, Sequence

from gateway.core.caching.cache_status import Reason
from gateway.core.http.dates import single_date_s
from gateway.core.http.fields import VARIANT, is_uniform
from gateway.core.http.messages import Fields, first, members, names, values

# Possessive quantifiers: no backtracking, so matching is linear.
_DIRECTIVE = re.compile(
    rb"""([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:=("(?:[^"\\]|\\.)*+"|[^\s",;]++))?[ \t]*+(?:,[ \t,]*+|\Z)"""
)
_SECONDS = re.compile(rb"[0-9]+")
_LONGEST_S = 2**31
_CACHE_CONTROL = b"cache-control"
# Cache-Control for intermediaries only: RFC 9213, and what the W3C had before it.
_TARGETED = (b"cdn-cache-control", b"surrogate-control")
ORIGIN_FIELDS = frozenset({_CACHE_CONTROL, *_TARGETED, b"pragma", b"expires", b"age"})
"""Without any of these the origin says nothing about freshness."""

Directives = dict[bytes, list[bytes | None]]
"""Lower-case directive names with their arguments, unquoted; ``None`` without one."""


def parse_directives(lines: Sequence[bytes]) -> Directives | None:
    """Parse ``Cache-Control`` lines (RFC 9111 §5.2); ``None`` when they are malformed."""
    directives: Directives = {}
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
            directives.setdefault(match[1].lower(), []).append(argument)
    return directives


def seconds(arguments: list[bytes | None]) -> int | None:
    """Return the smallest of a directive's delta-seconds; ``None`` when one is malformed."""
    if not all(argument is not None and _SECONDS.fullmatch(argument) for argument in arguments):
        return None
    return min(_delta(argument) for argument in arguments if argument is not None)


def pragma(fields: Fields) -> set[bytes]:
    """Return the directives of ``Pragma``, lower case."""
    return {member.lower() for member in members(fields, b"pragma")}


def upstream_age_s(fields: Fields) -> int | None:
    """Return the received ``Age``, 0 without one; ``None`` when it is malformed."""
    ages = members(fields, b"age")
    if not ages:
        return 0
    return _delta(ages[0]) if _SECONDS.fullmatch(ages[0]) else None


def origin_freshness(fields: Fields, now_s: float) -> Reason | float | None:
    """Evaluate the origin's fields (``origin_cache_control = "obey"``).

    Args:
        fields: the response's fields, hop-by-hop ones included, so that ``Connection`` can't hide one.
        now_s: wall clock of the fetch, in place of a missing ``Date``.

    Returns:
        Why the response must not be stored, or its freshness lifetime minus the received Age; ``None`` when
        the origin gives no time.
    """
    if ORIGIN_FIELDS.isdisjoint(names(fields)):
        return None
    age_s = upstream_age_s(fields)
    if age_s is None:
        return Reason.UNREADABLE_FRESHNESS
    limits: list[float] = []
    for name in (_CACHE_CONTROL, *_TARGETED):
        lines = values(fields, name)
        directives = parse_directives(lines)
        if directives is None:
            return Reason.UNREADABLE_FRESHNESS
        for directive, reason in _FORBIDDING.items():
            if directive in directives:
                return reason
        named: list[int] = []
        for directive in (b"s-maxage", b"max-age"):
            if directive in directives:
                limit = seconds(directives[directive])
                if limit is None:
                    return Reason.UNREADABLE_FRESHNESS
                named.append(limit)
        # ``s-maxage`` overrides ``max-age`` in a shared cache.
        limits.extend(named[:1])
        if name != _CACHE_CONTROL:
            continue
        if not lines and b"no-cache" in pragma(fields):
            return Reason.NO_CACHE
        # Only a time in Cache-Control itself overrides Expires; of several fields the shortest time wins.
        if not named and first(fields, b"expires") is not None:
            lifetime_s = _expires_s(fields, now_s)
            if lifetime_s is None:
                return Reason.UNREADABLE_FRESHNESS
            limits.append(lifetime_s)
    if not limits:
        return None
    lifetime_s = min(limits) - age_s
    return lifetime_s if lifetime_s > 0 else Reason.EXPIRED


def unmet_vary(response: Fields, request: Fields, covered: Container[bytes]) -> bytes | None:
    """Return a name in ``Vary`` by which requests with the same key may differ (RFC 9111 §4.1).

    Not counted are the fields that the variant covers (``Origin`` if the request has none), and those that
    are equal in every fetch for the cache.

    Args:
        request: the end-to-end fields of the request it answers.
        covered: lower-case names of further fields that are equal in those requests.

    Returns:
        The first such name in lower case, or ``*``; ``None`` without one.
    """
    for member in members(response, b"vary"):
        name = member.lower()
        if name == b"origin" and first(request, b"origin") is None:
            continue
        if not (name in VARIANT or name in covered or is_uniform(name)):
            return name
    return None


def varies_on_accept(response: Fields) -> bool:
    """Tell whether ``Vary`` names ``Accept``, so that all values of it count as different."""
    return any(member.lower() == b"accept" for member in members(response, b"vary"))


# ``must-understand`` needs no rule: only 200 is ever stored.
_FORBIDDING = {b"no-store": Reason.NO_STORE, b"private": Reason.PRIVATE, b"no-cache": Reason.NO_CACHE}


def _delta(digits: bytes) -> int:
    # Longer numbers exceed the range anyway, and int() rejects thousands of digits.
    return min(int(digits), _LONGEST_S) if len(digits) < 16 else _LONGEST_S


def _expires_s(fields: Fields, now_s: float) -> float | None:
    """Return the seconds from ``Date`` to ``Expires``; ``None`` when either is malformed."""
    expires_s = single_date_s(fields, b"expires", now_s)
    sent_s = now_s if first(fields, b"date") is None else single_date_s(fields, b"date", now_s)
    return None if expires_s is None or sent_s is None else expires_s - sent_s
