"""Tokens that IAM gives out for a password: had in time, renewed, refused."""

import asyncio
import base64
import json
import logging
from collections.abc import Callable

import pytest

from gateway.app.gateway import Gateway
from gateway.config.load import masked
from gateway.telemetry.metrics_text import render
from tests.end_to_end.kit import ALICE, MovableTime, cache_status, get, is_hit, running_record, settled, until
from tests.testbed.answers import Conversation, close_unanswered
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos
from tests.testbed.gateway import RunningGateway, loaded, running
from tests.testbed.iam import TOKENS, ScriptedIam, refused, said, throttled, word
from tests.testbed.secrets import assert_absent, token

from .kit import PASSWORD, ask, by_password

STACK = TARGET.partition("/actions")[0]
_WRITES = {"credentials__allow": ["GET /v2/stacks/*", "GET /v2/stacks/*/actions/*", "PUT /v2/stacks/*"]}


class Checking:
    """An AOS that knows which tokens live."""

    def __init__(self, iam: ScriptedIam) -> None:
        self.iam = iam
        self.revoked: set[bytes] = set()
        self.answer = settled()

    async def __call__(self, received: Received, conversation: Conversation) -> None:
        sent = received.get("X-Auth-Token")
        lives = sent in self.iam.issued and sent not in self.revoked
        await conversation.answer(self.answer if lives else Answer(401, body=b"no"))


@pytest.fixture
def checking(aos: ScriptedAos, iam: ScriptedIam) -> Checking:
    checking = Checking(iam)
    aos.answer(checking)
    return checking


def tokens(aos: ScriptedAos) -> list[bytes]:
    """What AOS was sent, each once, in order."""
    return list(dict.fromkeys(sent.get("X-Auth-Token") or b"" for sent in aos.received))


def renewals(gateway: RunningGateway) -> dict[str, int]:
    return dict(gateway.app.metrics.credential_renewals)


async def test_it_is_asked_for_once_by_all_together_with_what_is_configured(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking
) -> None:
    gate = iam.gate()
    iam.on("POST", TOKENS, gate.before(said(word(), iam.add(token("robot", 4_000)), 201)), times=1)
    iam.issued.append(token("robot", 4_000))
    async with running(aos.url, **by_password(iam)) as gateway:
        asking = [asyncio.create_task(ask(gateway, f"{TARGET}{n}")) for n in range(5)]
        await gate.wait_reached()
        assert aos.heads == []
        gate.open()
        assert {(await each).status for each in asking} == {200}
    assert iam.logins == 1
    (asked,) = iam.received
    auth = json.loads(asked.body)["auth"]
    assert auth["identity"]["password"]["user"] == {
        "name": "robot",
        "password": PASSWORD,
        "domain": {"name": "company"},
    }
    assert auth["scope"] == {"project": {"name": "project-a"}}
    assert tokens(aos) == [token("robot", 4_000)]


async def test_it_is_renewed_in_time_and_what_was_stored_survives(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking, now: MovableTime
) -> None:
    iam.lives_s = 100.0
    async with running(aos.url, clock=now.clock, **by_password(iam)) as gateway:
        await ask(gateway, TARGET)
        now.ahead_s = 78.0
        await ask(gateway, STACK)
        assert iam.logins == 1
        now.ahead_s = 82.0
        # The one in use still lives: nobody waits for the next.
        assert (await ask(gateway, STACK)).status == 200
        await until(lambda: iam.logins == 2)
        await until(lambda: renewals(gateway) == {"renewed": 2})
        await ask(gateway, STACK)
        assert is_hit(await ask(gateway, TARGET))
    assert tokens(aos) == iam.issued


async def test_the_timer_alone_renews_it(aos: ScriptedAos, iam: ScriptedIam) -> None:
    iam.lives_s = 1.3
    async with running(aos.url, **by_password(iam)):
        await iam.wait_until(lambda: iam.logins >= 2, "another token")


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_stop_does_not_wait_for_iam_and_asks_no_more(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking, now: MovableTime, *, is_first: bool
) -> None:
    iam.lives_s = 100.0
    gate = iam.gate()
    async with running(aos.url, clock=now.clock, **by_password(iam)) as gateway:
        if not is_first:
            assert (await ask(gateway, STACK)).status == 200
        iam.on("POST", TOKENS, gate.before(close_unanswered))
        if not is_first:
            now.ahead_s = 85.0
            await ask(gateway, STACK)
        await gate.wait_reached()
        logins = iam.logins
        async with asyncio.timeout(2):
            await gateway.app.close(0.1)
        now.ahead_s = 200.0
        await asyncio.sleep(0.05)
        assert iam.logins == logins


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_waits_for_a_token_is_answered_at_a_stop(
    aos: ScriptedAos, iam: ScriptedIam, *, is_first: bool
) -> None:
    aos.answer(Answer(401, body=b"no"))
    gate = iam.gate()
    if is_first:
        iam.on("POST", TOKENS, gate.before(close_unanswered))
    async with running(aos.url, **by_password(iam, iam__timeout_s=30)) as gateway:
        if not is_first:
            await until(lambda: iam.logins == 1)
            iam.on("POST", TOKENS, gate.before(close_unanswered))
        waiting = [
            asyncio.create_task(ask(gateway, target, method=method))
            for target, method in ((TARGET, "GET"), (STACK, "GET"), (STACK, "HEAD"))
        ]
        await gate.wait_reached()
        await until(lambda: len(gateway.app.upstream._under_way) == len(waiting))
        await gateway.app.close(0.1)
        assert {(await each).status for each in waiting} <= {502, 504}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_after_a_401_it_is_renewed_once_and_the_request_repeated_once(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking, method: str
) -> None:
    async with running(aos.url, **by_password(iam)) as gateway:
        await ask(gateway, STACK)
        checking.revoked.update(iam.issued)
        paths = (TARGET, STACK, f"{TARGET}2", f"{STACK}2")
        answers = await asyncio.gather(*(ask(gateway, path, method=method) for path in paths))
        assert {answer.status for answer in answers} == {200}
        assert iam.logins == 2
        # Again within half a minute: AOS's word is passed on.
        checking.revoked.update(iam.issued)
        before = len(aos.received)
        answer = await ask(gateway, f"{TARGET}3", method=method)
        assert (answer.status, answer.get("Proxy-Status")) == (401, None)
        assert (iam.logins, len(aos.received) - before) == (2, 1)


async def test_a_second_401_is_passed_on(aos: ScriptedAos, iam: ScriptedIam) -> None:
    aos.answer(Answer(401, body=b"never"))
    async with running(aos.url, **by_password(iam)) as gateway:
        answer = await ask(gateway, TARGET)
        assert (answer.status, answer.body) == (401, b"never")
    assert (iam.logins, aos.count()) == (2, 2)


async def test_after_a_401_a_write_is_not_repeated_but_the_token_renewed(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking
) -> None:
    async with running(aos.url, **by_password(iam, **_WRITES)) as gateway:
        await ask(gateway, STACK)
        checking.revoked.update(iam.issued)
        assert (await ask(gateway, STACK, method="PUT", body=b"{}")).status == 401
        await until(lambda: iam.logins == 2)
        assert (await ask(gateway, STACK, method="PUT", body=b"{}")).status == 200
    assert aos.count("PUT") == 2


async def test_a_callers_own_401_is_its_own_matter(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking
) -> None:
    async with running(aos.url, **by_password(iam)) as gateway:
        assert (await get(gateway, token=ALICE)).status == 401
        assert (await ask(gateway, TARGET)).status == 200
        assert not is_hit(await get(gateway, token=ALICE))
    assert iam.logins == 1


async def test_while_iam_is_away_a_token_that_lives_is_used_on(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking, now: MovableTime
) -> None:
    iam.lives_s = 100.0
    async with running(aos.url, clock=now.clock, **by_password(iam)) as gateway:
        await ask(gateway, STACK)
        iam.on("POST", TOKENS, close_unanswered)
        now.ahead_s = 90.0
        assert (await ask(gateway, STACK)).status == 200
        await until(lambda: renewals(gateway) == {"renewed": 1, "failed": 1})
        assert (await ask(gateway, STACK)).status == 200
        assert not gateway.app.metrics_snapshot()["credentials_unavailable"][()][0]
        # It is over, and IAM still away.
        now.ahead_s = 101.0
        answer = await ask(gateway, STACK)
        body = json.loads(answer.body)
        assert (answer.status, body["code"]) == (503, "GATEWAY.5030004")
        assert "IAM cannot be reached" in body["detail"]
        assert cache_status(answer) == "aos-gateway; detail=credentials"
        assert int(answer.get("Retry-After") or b"0") >= 1
        assert gateway.app.metrics_snapshot()["credentials_unavailable"][()][0]
    assert len(iam.issued) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refused(401, "The username or password is wrong."), "refuses"),
        (refused(403), "refuses"),
        (refused(404), "refuses"),
        (refused(408), "error"),
        (throttled(), "throttles"),
        (refused(500), "error"),
        (said(word(), b"", 201), "cannot be used"),
        (said(word(), b"a b", 201), "cannot be used"),
        (said({}, b"t", 201), "cannot be used"),
        (Answer(302, headers=[("Location", TOKENS)]), "error"),
        (b"nonsense\r\n\r\n", "IAM"),
    ],
)
async def test_what_gives_no_token_is_a_503_that_says_why(
    aos: ScriptedAos, iam: ScriptedIam, answer: Answer, says: str
) -> None:
    iam.on("POST", TOKENS, answer)
    async with running(aos.url, **by_password(iam)) as gateway:
        for _ in range(3):
            response = await ask(gateway, TARGET)
            assert response.status == 503
            assert says in json.loads(response.body)["detail"]
    assert iam.logins == 1
    assert aos.heads == []


async def test_after_iam_has_refused_the_pauses_grow_and_a_reload_asks_at_once(
    aos: ScriptedAos,
    iam: ScriptedIam,
    checking: Checking,
    now: MovableTime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = by_password(iam)
    iam.lives_s = 100.0
    async with running(aos.url, clock=now.clock, **settings) as gateway:
        await ask(gateway, STACK)
        iam.accounts["company", "robot"] = "another one"
        now.ahead_s = 85.0
        await ask(gateway, STACK)
        await until(lambda: iam.logins == 2)
        # IAM has said no: what it gave before is not used any more.
        await until(lambda: renewals(gateway) == {"renewed": 1, "refused": 1})
        for pause_s in (60, 120, 240, 480, 900, 900):
            logins = iam.logins
            now.ahead_s += pause_s - 1
            answer = await ask(gateway, STACK)
            assert (answer.status, answer.get("Retry-After"), iam.logins) == (503, b"1", logins)
            now.ahead_s += 1.1
            assert (await ask(gateway, STACK)).status == 503
            assert iam.logins == logins + 1
        iam.accounts["company", "robot"], iam.lives_s = "a new one", 86_400.0
        await gateway.app.apply(loaded(aos.url, **settings | {"credentials__password": "a new one"}))
        assert (await ask(gateway, STACK)).status == 200
    lines = [line.message for line in caplog.records if line.message.startswith("credentials")]
    assert lines[0] == "credentials down: refused by IAM: 401 The username or password is wrong."
    assert lines[1].startswith("credentials up again")
    assert len(lines) == 2


async def test_another_401_after_half_a_minute_renews_it_again(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking, now: MovableTime
) -> None:
    async with running(aos.url, clock=now.clock, **by_password(iam)) as gateway:
        for after_s, status, logins in ((0.0, 200, 1), (1.0, 200, 2), (29.0, 401, 2), (32.0, 200, 3)):
            now.ahead_s = after_s
            if after_s:
                checking.revoked.update(iam.issued)
            assert (await ask(gateway, STACK)).status == status
            assert iam.logins == logins


async def test_those_who_wait_and_are_held_back_are_the_same_after_a_renewal(
    aos: ScriptedAos, iam: ScriptedIam, checking: Checking
) -> None:
    settings = by_password(iam, wait__interval_s=0.2)
    async with running(aos.url, **settings) as gateway:
        checking.answer = running_record()
        waiting = [asyncio.create_task(ask(gateway, TARGET, ("Prefer", "wait=20"))) for _ in range(2)]
        await until(lambda: len(gateway.app.waits) == 2 and aos.count() >= 1)
        checking.revoked.update(iam.issued)
        await until(lambda: iam.logins == 2)
        checking.answer = settled()
        assert {(await each).status for each in waiting} == {200}
        assert tokens(aos) == iam.issued
        checking.answer = Answer(429, headers=[("Retry-After", "9")], body=b"slow down")
        assert (await ask(gateway, f"{TARGET}2")).status == 429
        checking.revoked.update(iam.issued)
        before = aos.count()
        assert (await ask(gateway, f"{TARGET}3")).status == 429
        assert aos.count() == before


@pytest.mark.parametrize("form", [bytes.hex, lambda piece: base64.b64encode(piece).decode(), bytes.decode])
async def test_no_piece_of_a_secret_is_in_log_metrics_errors_or_what_is_shown(
    aos: ScriptedAos, iam: ScriptedIam, caplog: pytest.LogCaptureFixture, form: Callable[[bytes], str]
) -> None:
    caplog.set_level(logging.DEBUG)
    client = token("client", 40).decode()
    said_back = refused(401, f"No such password: {form(PASSWORD[3:25].encode())}")
    settings = by_password(iam, credentials__client_token=client)
    bearer = ("Authorization", f"Bearer {client}")
    shown: list[bytes] = []
    aos.answer(Answer(401, body=b"no"))
    async with running(aos.url, **settings) as gateway:
        shown.append((await ask(gateway, TARGET, bearer)).body)
        iam.on("POST", TOKENS, said_back)
        await gateway.app.apply(loaded(aos.url, **settings | {"credentials__password": PASSWORD + "x"}))
        shown += [(await ask(gateway, TARGET, *fields)).body for fields in ((bearer,), ())]
        shown.append(render(gateway.app.metrics_snapshot())[0])
        shown.append(json.dumps(masked(gateway.app.config)).encode())
        shown.append(repr(vars(gateway.app)).encode())
        shown.append(repr([vars(each) for each in everything(gateway.app)]).encode())
    shown += [f"{line.getMessage()} {vars(line)}".encode() for line in caplog.records]
    for secret in (PASSWORD.encode(), client.encode(), *iam.issued):
        assert_absent(b"\n".join(shown), secret)
    assert iam.logins == 3


def everything(app: Gateway) -> list[object]:
    """The parts of a gateway that get near credentials."""
    credentials = app._credentials
    assert credentials is not None
    return [credentials, app.upstream, app._handler, app.waits]
