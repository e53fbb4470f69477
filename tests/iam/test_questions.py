"""Questions to IAM: how often, over what, and what of them can be seen."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.app.gateway import Gateway
from gateway.app.tracing import Tracing
from gateway.config.model import TracingConfig
from gateway.core.aos.iam_token import token_owner
from tests.credentials.kit import by_password
from tests.end_to_end.kit import get, is_hit, settled, until
from tests.testbed.answers import Answer, AnyAnswer, Conversation, Gate, Received
from tests.testbed.aos import TARGET, ScriptedAos
from tests.testbed.client import fetch
from tests.testbed.gateway import RunningGateway, StartGateway, loaded, running
from tests.testbed.iam import TOKENS, ScriptedIam, said, word
from tests.testbed.secrets import assert_absent, token
from tests.testbed.tls import Authority
from tests.testbed.workers import one_to_each

ONE, TWO = token("alice, one", 4_000), token("alice, two", 4_000)


def asking(url: str, **more: Any) -> dict[str, Any]:
    """A gateway that asks this IAM, and may ask often."""
    return {"identity__by": "user", "iam__url": url, "iam__max_per_s": 100, **more}


async def asked(gateway: RunningGateway, outcome: str, *tokens: bytes) -> None:
    """Use tokens one after the other until each was asked about with this outcome."""
    counts = gateway.app.metrics.iam_questions
    for each in tokens:
        wanted = counts[outcome] + 1
        assert (await get(gateway, token=each)).status == 200
        await until(lambda wanted=wanted: counts[outcome] >= wanted)  # type: ignore[misc]


async def test_by_token_nothing_is_asked_whatever_else_is_set(aos: ScriptedAos, iam: ScriptedIam) -> None:
    aos.answer(settled())
    iam.add(ONE)
    iam.add(TWO)
    url = f"http://{iam.address}"
    seen = []
    for settings in ({}, {"iam__url": url, "identity__verify_ttl_s": 1}, {"identity__by": "token"}):
        async with running(aos.url, **settings) as gateway:
            seen.append([is_hit(await get(gateway, token=each)) for each in (ONE, TWO, ONE, TWO)])
            assert gateway.app.verifier is None
            assert not gateway.app.metrics.iam_questions
    assert seen == [[False, False, True, True]] * 3
    assert (iam.connections, iam.heads) == (0, [])


@pytest.mark.parametrize("name", ["another authority", "another name"])
async def test_an_impostor_is_not_sent_the_token(
    aos: ScriptedAos, authority: Authority, tmp_path: Path, name: str
) -> None:
    stranger = Authority(tmp_path)
    contexts = {
        "another authority": stranger.server_context(),
        "another name": authority.server_context("iam.example"),
    }
    aos.answer(settled())
    async with ScriptedIam(tls=contexts[name]) as iam:
        iam.add(ONE)
        for settings in ({"iam__ca_file": str(authority.ca_file)}, {}):
            async with running(aos.url, **asking(iam.url, **settings)) as gateway:
                await asked(gateway, "tls", ONE)
        assert (iam.heads, iam.cut, iam.asked) == ([], [], {})


@pytest.mark.operation
async def test_the_authorities_are_read_again_at_a_reload(
    aos: ScriptedAos, authority: Authority, tmp_path: Path, start_gateway: StartGateway
) -> None:
    (tmp_path / "stranger").mkdir()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Authority(tmp_path / "stranger").ca_file.read_bytes())
    aos.answer(settled())
    async with ScriptedIam(tls=authority.server_context()) as iam:
        iam.add(ONE)
        iam.add(TWO)
        gateway = await start_gateway(**asking(iam.url, iam__ca_file=ca_file))
        await fetch(gateway.address, TARGET, token=ONE)
        await until(lambda: "iam down" in gateway.output())
        assert not iam.asked
        ca_file.write_bytes(authority.ca_file.read_bytes())
        os.kill(gateway.pid, signal.SIGHUP)
        await until(lambda: "reloaded" in gateway.output())
        await fetch(gateway.address, TARGET, token=TWO)
        await until(lambda: iam.asked[TWO] == 1)
        await until(lambda: "iam up" in gateway.output())


async def test_an_answer_that_nobody_asked_for_is_no_word_about_the_next_token(
    aos: ScriptedAos, iam: ScriptedIam
) -> None:
    sent = asyncio.Event()

    async def twice(_: Received, conversation: Conversation) -> None:
        await conversation.send(said(word("bob")).whole())
        await until(lambda: gateway.app.metrics.iam_questions["verified"] == 1)
        # When its connection may be in use no more.
        with contextlib.suppress(OSError):
            await conversation.send(said(word("alice")).whole())
        sent.set()

    bobs, eves = token("bob", 4_000), token("eve", 4_000)
    aos.answer(settled())
    iam.add(bobs, twice)
    iam.add(eves, user="eve")
    iam.add(ONE)
    async with running(aos.url, **asking(iam.url)) as gateway:
        await asked(gateway, "verified", bobs)
        await sent.wait()
        # The bytes are there before the next question.
        await asyncio.sleep(0.05)
        await asked(gateway, "verified", eves, ONE)
        verifier = gateway.app.verifier
        assert verifier is not None
        for each, name in ((bobs, "bob"), (eves, "eve"), (ONE, "alice")):
            owner = token_owner(said(word(name)).body)
            assert owner is not None
            assert verifier.user_of(verifier.digest(each), each) == owner.user


async def test_a_slow_answer_holds_up_neither_other_questions_nor_the_gateways_own_token(
    aos: ScriptedAos, iam: ScriptedIam
) -> None:
    gate = Gate()
    aos.answer(settled())
    tokens = [iam.add(token(f"job {number}", 300), gate.before(said(word()))) for number in range(12)]
    own = {name: value for name, value in by_password(iam).items() if name != "iam__url"}
    async with running(aos.url, **asking(iam.url, iam__timeout_s=10), **own) as gateway:
        for each in tokens:
            await get(gateway, token=each)
        await gate.wait_reached(len(tokens))
        credentials = gateway.app._credentials
        assert credentials is not None
        assert await credentials.source.renew(((b"X-Auth-Token", iam.issued[-1]),))
        assert iam.logins == 2
        gate.open()
        await until(lambda: gateway.app.metrics.iam_questions["verified"] == len(tokens))


async def test_a_redirect_is_not_followed_and_no_cookie_is_kept(
    aos: ScriptedAos, iam: ScriptedIam, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor is a proxy of the environment asked.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    aos.answer(settled())
    cookie = ("Set-Cookie", "session=alice; Path=/")
    async with ScriptedIam() as elsewhere, running(aos.url, **asking(f"http://{iam.address}")) as gateway:
        elsewhere.add(ONE)
        for number, status in enumerate((301, 302, 303, 307, 308), 1):
            each = token(f"redirected {number}", 300)
            location = ("Location", f"{elsewhere.url}{TOKENS}")
            iam.add(each, Answer(status, headers=[location, cookie], body=b""))
            await asked(gateway, "unusable", each)
        answer = said(word())
        iam.add(ONE, Answer(headers=[*answer.headers, cookie], body=answer.body))
        iam.add(TWO)
        await asked(gateway, "verified", ONE, TWO)
        assert elsewhere.connections == 0
    assert len(iam.heads) == 7
    assert not any(head.all("Cookie") for head in iam.heads)


@pytest.mark.operation
async def test_two_workers_together_ask_no_more_often_than_one_may(
    aos: ScriptedAos, iam: ScriptedIam, start_gateway: StartGateway
) -> None:
    aos.answer(settled())
    at_s: list[float] = []

    async def answer(received: Received, conversation: Conversation) -> None:
        at_s.append(time.monotonic())
        await conversation.answer(said(word()))

    most_per_s, count = 10, 30
    mine = [
        [iam.add(token(f"{worker} {number}", 300), answer) for number in range(count)] for worker in (0, 1)
    ]
    settings = asking(f"http://{iam.address}", iam__max_per_s=most_per_s)
    gateway = await start_gateway("--workers", "2", **settings)
    async with one_to_each(gateway.address, 2, token("nobody")) as clients:
        for client, tokens in zip(clients, mine, strict=True):
            for each in tokens:
                assert (await client.request("GET", TARGET, [("X-Auth-Token", each)])).status == 200
        async with asyncio.timeout(15):
            while len(at_s) < count:
                await asyncio.sleep(0.05)
    # One of each worker may be early.
    for first, begun_s in enumerate(at_s):
        within = sum(begun_s <= each < begun_s + 1.0 for each in at_s[first:])
        assert within <= most_per_s + 2
    assert all(sum(iam.asked[each] for each in tokens) > count / 4 for tokens in mine)


async def _echo(received: Received, conversation: Conversation) -> None:
    """Answer with all that was sent, in the status line, the fields and the body."""
    sent = received.get("X-Auth-Token") or b""
    await conversation.send(
        b"HTTP/1.1 500 %b\r\nX-Subject-Token: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (sent, sent, len(sent), sent)
    )


async def _nonsense(received: Received, conversation: Conversation) -> None:
    """Answer with what was sent and is no HTTP."""
    await conversation.send(b"%b\r\n\r\n" % (received.get("X-Auth-Token") or b""))
    conversation.close()


async def _no_field(received: Received, conversation: Conversation) -> None:
    """Answer with what was sent where a field should be."""
    sent = received.get("X-Auth-Token") or b""
    await conversation.send(b"HTTP/1.1 200 OK\r\n%b %b\r\n\r\n" % (sent, sent))
    conversation.close()


_TELLING: dict[str, Callable[[bytes], AnyAnswer]] = {
    "verified": lambda each: said(word(), each),
    "refused": lambda each: Answer(401, headers=[("X-Subject-Token", each.decode())], body=each),
    "named": lambda each: said(word(added=each.decode()), each),
    "unreadable": lambda each: Answer(body=b'{"token": ' + each),
    "echo": lambda _: _echo,
    "nonsense": lambda _: _nonsense,
    "no field": lambda _: _no_field,
}


async def test_no_piece_of_a_token_is_seen_in_log_metrics_page_or_configuration(
    aos: ScriptedAos, iam: ScriptedIam, start_gateway: StartGateway
) -> None:
    aos.answer(settled())
    tokens = {name: token(name, 2_000) for name in _TELLING}
    gateway = await start_gateway(
        **asking(f"http://{iam.address}", log__level="debug", cache__secret="s" * 40)
    )
    for name, each in tokens.items():
        iam.add(each, _TELLING[name](each))
        for _ in range(2):
            assert (await fetch(gateway.address, TARGET, token=each)).status == 200
        await until(lambda each=each: iam.asked[each] > 0)  # type: ignore[misc]
    paths = ("/metrics", "/config", "/status", "/readyz", "/")
    pages = [(await fetch(gateway.admin, path)).body for path in paths]
    assert await gateway.stop() == 0
    output = gateway.output().encode()
    assert b"iam down" in output
    assert b"iam_questions" in pages[0]
    for each in tokens.values():
        for seen in (output, *pages):
            assert_absent(seen, each)


async def test_no_piece_of_a_token_is_seen_in_spans_or_what_libraries_log(
    aos: ScriptedAos, iam: ScriptedIam, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    asyncio.get_running_loop().set_debug(True)
    aos.answer(settled())
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingConfig(sample=1.0), SimpleSpanProcessor(exporter))
    gateway = Gateway(loaded(aos.url, **asking(f"http://{iam.address}")), tracing=tracing)
    address = str(await gateway.start())
    tokens = {name: token(name, 2_000) for name in _TELLING}
    try:
        for number, (name, each) in enumerate(tokens.items(), 1):
            iam.add(each, _TELLING[name](each))
            await fetch(address, TARGET, token=each)
            await until(lambda number=number: sum(gateway.metrics.iam_questions.values()) == number)  # type: ignore[misc]
        seen = [repr(gateway.verifier), *(span.to_json() for span in exporter.get_finished_spans())]
    finally:
        await gateway.close(1.0)
    assert len(seen) > len(tokens)
    for each in tokens.values():
        assert_absent("\n".join([*seen, caplog.text]).encode(), each)
