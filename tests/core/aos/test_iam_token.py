"""Whose a token is: one digest for all tokens of a user, another one for anything else that IAM says."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.aos.iam_token import MAX_BYTES, TokenOwner, token_owner
from tests.testbed.answers import Answer
from tests.testbed.iam import Json, moment, odd_answers, word
from tests.testbed.payloads import ABSENT

_ENDS = "2026-11-28T09:12:33.123000Z"
_WORD = word(expires_at=_ENDS)


def owner(token: Json) -> TokenOwner:
    found = token_owner(json.dumps({"token": token}).encode())
    assert found is not None
    return found


def test_its_end_is_read_in_universal_time() -> None:
    assert owner(_WORD).expires_s == 1_795_857_153.123
    assert owner(word(expires_at="2026-11-28T10:12:33.123+01:00")).expires_s == 1_795_857_153.123


@pytest.mark.parametrize(
    "token",
    [
        word(lives_s=10.0),
        word(issued_at=moment(-5.0)),
        word(catalog=[{"type": "orchestration"}], audit_ids=["a"]),
        word(roles=("secu_admin", "te_admin")),
        dict(reversed(_WORD.items())),
    ],
)
def test_what_differs_between_tokens_of_one_user_does_not_count(token: Json) -> None:
    assert owner(token).user == owner(_WORD).user


def test_a_second_factor_counts_and_the_moment_of_it_does_not() -> None:
    one, other = (owner(word(mfa_authn_at=moment(-ago_s))).user for ago_s in (10.0, 20.0))
    assert one == other != owner(_WORD).user


def test_everything_else_counts() -> None:
    user = _WORD["user"]
    others = [
        word("bob"),
        word(project="project-b"),
        word(project=None),
        word(roles=("te_admin",)),
        word(roles=()),
        word(roles=("te_admin", "secu_admin", "secu_admin")),
        word(methods=["token"]),
        word(methods=["password", "totp"]),
        _WORD | {"user": user | {"id": "another"}},
        _WORD | {"user": user | {"name": "another"}},
        _WORD | {"user": user | {"domain": user["domain"] | {"id": "another"}}},
        _WORD | {"user": user | {"new": None}},
        word(assumed_by={"user": user}),
        word(assumed_by={"user": user | {"id": "another"}}),
        word(added_next_year=1),
        word(added_next_year=1.0),
        word(added_next_year="1"),
        word(added_next_year=True),
        word(added_next_year=None),
        word(added_next_year=[]),
        word(added_next_year={}),
        word(added_next_year=["a", "b"]),
        word(added_next_year=["b", "a"]),
        word(added_next_year=["a,b"]),
        word(added_next_year={"a": "b"}),
        word(added_next_year='{"a":"b"}'),
        word(added_next_year=[{"roles": ["a", "b"]}]),
        word(added_next_year=[{"roles": ["b", "a"]}]),
    ]
    assert len({owner(each).user for each in [_WORD, *others]}) == 1 + len(others)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(one=_JSON, other=_JSON)
def test_no_two_descriptions_are_taken_for_one(one: Any, other: Any) -> None:
    texts = {json.dumps(each, sort_keys=True) for each in (one, other)}
    assert len({owner(_WORD | {"added": each}).user for each in (one, other)}) == len(texts)


_ODD: dict[str, bytes] = {
    name: answer.body
    for name, answer in odd_answers(word()).items()
    if isinstance(answer, Answer) and answer.status == 200 and answer.body is not None
}


@pytest.mark.parametrize("body", _ODD.values(), ids=_ODD)
def test_what_is_not_said_beyond_doubt_is_nobodys(body: bytes) -> None:
    found = token_owner(body)
    # The two whose body is whole: IAM says how long it counts, and the client what its coding means.
    assert found is None or body in (_ODD["has ended"], _ODD["compressed that is not"])


@pytest.mark.parametrize(
    "change",
    [
        lambda token: {"expires_at": "2026-11-28T09:12:33"},
        lambda token: {"expires_at": 20261128},
        lambda token: {"expires_at": ABSENT},
        lambda token: {"user": {"id": 5}},
    ],
)
def test_an_end_or_a_user_that_is_none_is_nobodys(change: Callable[[Json], Json]) -> None:
    token = {name: value for name, value in (_WORD | change(_WORD)).items() if value is not ABSENT}
    assert token_owner(json.dumps({"token": token}).encode()) is None


def test_an_answer_may_be_so_long_and_no_longer() -> None:
    body = json.dumps({"token": _WORD}).encode()
    assert token_owner(body.ljust(MAX_BYTES)) is not None
    assert token_owner(body.ljust(MAX_BYTES + 1)) is None
