"""What an operator can do when settled records can't be stored."""

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.policy import FetchedResponse, Rules, StoreDecision, blocking_vary
from gateway.core.http.fields import is_sent_unchanged

_WHO = "AOS, or a proxy in front of it,"
_OVERRIDE = 'cache.origin_cache_control = "ignore" stores them anyway'
_MOST_CHARACTERS = 64


def hint(fetched_response: FetchedResponse, decision: StoreDecision, rules: Rules) -> str | None:
    """Return one sentence: why a settled record is not stored, and the remedy.

    ``None`` when the record is stored, is not settled, or can't be stored for its content.
    """
    if decision.phase not in rules.terminal_phases:
        return None
    match decision.reason:
        case Reason.NO_STORE | Reason.PRIVATE | Reason.NO_CACHE:
            return f"{_WHO} says {decision.reason.value}; {_OVERRIDE}"
        case Reason.UNREADABLE_FRESHNESS:
            return f"{_WHO} sends a malformed Cache-Control, Expires or Age; {_OVERRIDE}"
        case Reason.SET_COOKIE:
            return f"{_WHO} sets a cookie with them; remove Set-Cookie"
        case Reason.VARY:
            return _vary_hint(blocking_vary(fetched_response, rules) or b"*", rules)
        case _:
            return None


def _vary_hint(name: bytes, rules: Rules) -> str:
    shown = name[:_MOST_CHARACTERS].decode("ascii", "replace")
    why = f"{_WHO} chooses them by {shown} (Vary)"
    if name in rules.identity_headers:
        return f'{why}, which cache.scope = "shared" does not separate; use "caller"'
    if name != b"*" and is_sent_unchanged(name) and not rules.shared:
        return f"{why}; add it to cache.identity_headers, or remove it from Vary"
    return f"{why}, which can differ between requests for one record; remove it from Vary"
