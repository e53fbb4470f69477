"""Many tokens of several users while IAM and AOS do what they like: nobody is given what is another's."""

import asyncio
import random

import pytest

from gateway.iam.verifier import Verifier
from tests.end_to_end.kit import MovableTime, cache_status, get, until
from tests.testbed.answers import Answer, Conversation, Received
from tests.testbed.aos import ScriptedAos, record
from tests.testbed.client import RawResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.iam import ScriptedIam, odd_answers, word
from tests.testbed.payloads import ACTION_ID, STACK_ID
from tests.testbed.secrets import token

_USERS = [f"user-{number}" for number in range(4)]
_TOKENS = {token(f"{user} {number}", 300): user for user in _USERS for number in range(3)}
_TARGETS = [f"/v2/stacks/{STACK_ID[:-1]}{number}/actions/{ACTION_ID}" for number in range(4)]
_ROUNDS, _REQUESTS = 15, 24
# How long a token may be served after AOS has begun to refuse it: both verify_ttl_s and access_ttl_s.
_BOUND_S = 300.0
_SETTINGS = {"identity__by": "user", "iam__max_per_s": 200, "iam__timeout_s": 0.2, "cache__ttl_running_s": 1}


class _Both:
    """AOS and IAM by turns, and what each of them has been told."""

    def __init__(self, aos: ScriptedAos, iam: ScriptedIam, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = MovableTime()
        self.iam = iam
        self.refused_s: dict[bytes, float] = {}
        self.phase = "Succeeded"
        aos.answer(self._aos)

    def turn(self) -> None:
        """Change something."""
        for each, user in _TOKENS.items():
            self.iam.add(each, user=user)
        if self.random.random() < 0.4:
            answers = odd_answers(word("somebody else"))
            # A 429 would end all questions, and what is usable would be true of somebody else.
            names = ["401", "403", "404", "500", "reset", "no HTTP", "redirect", "two lengths"]
            for each in _TOKENS:
                self.iam.add(each, answers[self.random.choice(names)])
        each = self.random.choice(list(_TOKENS))
        if each in self.refused_s:
            del self.refused_s[each]
        else:
            self.refused_s[each] = self.now.clock.monotonic_s()
        for refused in self.refused_s:
            self.iam.remove(refused)
        self.phase = self.random.choice(["Succeeded", "Succeeded", "Running"])
        self.now.ahead_s += self.random.choice([0.0, 1.0, 30.0, 130.0, 310.0])

    async def _aos(self, received: Received, conversation: Conversation) -> None:
        asks = received.get("X-Auth-Token") or b""
        if asks in self.refused_s:
            await conversation.answer(Answer(401, body=asks))
        else:
            body = record(self.phase, unknownField=_TOKENS[asks])
            await conversation.answer(Answer(headers=[("Content-Type", "application/json")], body=body))

    def check(self, asks: bytes, response: RawResponse, since_s: float | None) -> None:
        """Judge a response; ``since_s`` is since when AOS refused the token as the request began."""
        if response.status == 401:
            assert response.body == asks
            return
        assert response.status == 200
        assert response.json()["unknownField"] == _TOKENS[asks]
        if since_s is not None:
            assert self.now.clock.monotonic_s() - since_s <= _BOUND_S + 1.0, cache_status(response)


def is_known(verifier: Verifier, token: bytes) -> bool:
    return verifier.user_of(verifier.digest(token), token) is not None


async def _ask(both: _Both, gateway: RunningGateway) -> None:
    asks = both.random.choice(list(_TOKENS))
    since_s = both.refused_s.get(asks)
    fields = [("Prefer", "wait=1")] if both.random.random() < 0.02 else []
    response = await get(gateway, both.random.choice(_TARGETS), *fields, token=asks)
    both.check(asks, response, since_s)


@pytest.mark.parametrize("seed", range(2))
async def test_nobody_is_given_what_is_another_users_or_another_tokens(
    aos: ScriptedAos, iam: ScriptedIam, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("gateway.iam.verifier._SWEEP_S", 0.02)
    both = _Both(aos, iam, seed)
    url = f"http://{iam.address}"
    async with running(aos.url, clock=both.now.clock, iam__url=url, **_SETTINGS) as gateway:
        verifier = gateway.app.verifier
        assert verifier is not None
        for _ in range(_ROUNDS):
            both.turn()
            # The clock goes on by leaps here, over which nobody is read anew.
            await until(lambda: len(verifier) == sum(is_known(verifier, each) for each in _TOKENS))
            await asyncio.gather(*(_ask(both, gateway) for _ in range(_REQUESTS)))
        outcomes = gateway.app.metrics.iam_questions
    assert outcomes["verified"] > 5
    assert aos.count() < 0.9 * _ROUNDS * _REQUESTS
