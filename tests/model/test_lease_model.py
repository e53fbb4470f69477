"""The lease in every interleaving of a small fleet; and each mistake that could be made in it is found.

AOS_GATEWAY_MODEL=long searches within wider bounds (some minutes).
"""

import os

import pytest

from .lease_model import Scenario, Violation, search

_KINDS = ("eviction", "flush", "forgery", "cut", "crash")
_FAILOVER = frozenset({"failover"})
_FIRST = frozenset({0})

_SHORT = {
    "two requests": Scenario(2, (0, 1)),
    "a write": Scenario(0, (0, 1), writes=1),
    "a result that is not for others": Scenario(1, (0, 1), voids=1),
    "no-cache": Scenario(1, (0, 1), no_cache=frozenset({1})),
    **{kind: Scenario(0, (0, 1), faults=1, kinds=frozenset({kind})) for kind in _KINDS},
    "one who joins late": Scenario(3, (0, 1, 1), at=(0, 1, 3)),
}
_LONG = {
    "three requests": Scenario(2, (0, 1, 1)),
    "more time": Scenario(4, (0, 1)),
    "a write and time": Scenario(1, (0, 1), writes=1),
    "a write and three requests": Scenario(0, (0, 1, 0), writes=1),
    "two writes": Scenario(0, (0, 1), writes=2),
    "no-cache first": Scenario(2, (0, 1), no_cache=_FIRST),
    **{kind: Scenario(1, (0, 1), faults=1, kinds=frozenset({kind})) for kind in _KINDS},
    "two faults": Scenario(0, (0, 1), faults=2, kinds=frozenset(_KINDS)),
    "a failover": Scenario(0, (0, 1), writes=1, faults=1, kinds=_FAILOVER),
}
_SCENARIOS = _SHORT | _LONG if os.environ.get("AOS_GATEWAY_MODEL") == "long" else _SHORT

_PLANTED = {
    "no-nonce-check": Scenario(3, (0, 1, 0), at=(0, 3, 3)),
    "no-generation-check": Scenario(0, (0, 1), writes=1),
    "names-without-generation": Scenario(0, (0, 1), writes=1),
    "leader-deletes": Scenario(2, (0, 1)),
    "joined-late": Scenario(3, (0, 1, 1), at=(0, 1, 3)),
    "pttl-last": Scenario(3, (0, 1, 0, 1), at=(0, 1, 1, 3), no_cache=frozenset({2})),
    "waits-for-ever": Scenario(0, (0, 1), faults=1, kinds=frozenset({"forgery"})),
    "repeat-not-marked": Scenario(0, (0, 1), writes=1, faults=1, kinds=_FAILOVER),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", _SCENARIOS.values(), ids=_SCENARIOS)
def test_no_answer_is_too_old_no_call_is_made_without_need_and_every_request_ends(scenario: Scenario) -> None:
    assert search(scenario) > 100


@pytest.mark.parametrize("plant", _PLANTED)
def test_a_planted_mistake_is_found(plant: str) -> None:
    with pytest.raises(Violation):
        search(_PLANTED[plant]._replace(plant=plant))
