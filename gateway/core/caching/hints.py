"""What an operator can do about settled records that may not be stored."""

from __future__ import annotations

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.policy import FetchedResponse, Rules, StoreDecision, blocking_vary
from gateway.core.http.fields import is_sent_unchanged

_WHO = "AOS, or a proxy in front of it,"
_OVERRIDE = 'cache.origin_cache_control = "ignore" stores them all the same'
_MOST_CHARACTERS = 64


def hint(fetched_response: FetchedResponse, decision: StoreDecision, rules: Rules) -> str | None:
    """Return why settled records are not stored and what would change that.

    Args:
        arrival: the whole response.
        judgement: what became of it.
        rules: by which it was judged.

    Returns:
        One sentence; ``None`` when the record is stored, not settled, or refused for what it is.
    """
    if decision.phase not in rules.terminal_phases:
        return None
    match decision.refusal:
        case Reason.NO_STORE | Reason.PRIVATE | Reason.NO_CACHE:
            return f"{_WHO} says {decision.refusal.value}; {_OVERRIDE}"
        case Reason.UNREADABLE_FRESHNESS:
            return f"{_WHO} sends a Cache-Control, Expires or Age that can't be read; {_OVERRIDE}"
        case Reason.SET_COOKIE:
            return f"{_WHO} sets a cookie with them; have it leave Set-Cookie out"
        case Reason.VARY:
            return _vary_hint(blocking_vary(fetched_response, rules) or b"*", rules)
        case _:
            return None


def _vary_hint(name: bytes, rules: Rules) -> str:
    shown = name[:_MOST_CHARACTERS].decode("ascii", "replace")
    why = f"{_WHO} chooses them by {shown} (Vary)"
    if name in rules.identity_headers:
        return f'{why}, which entries of cache.scope = "shared" do not keep apart; use "caller"'
    if name != b"*" and is_sent_unchanged(name) and not rules.shared:
        return f"{why}; add it to cache.identity_headers, or have it leave that out"
    return f"{why}, in which requests for the same record can differ; have it leave that out"
