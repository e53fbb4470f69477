"""A token in a file that somebody else renews."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.kit import MovableTime, is_hit, settled
from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos
from tests.testbed.gateway import RunningGateway, loaded, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import assert_absent, token

from .kit import ask, by_file

ONE, TWO = token("robot, one", 4_000), token("robot, two", 4_000)
STACK = TARGET.partition("/actions")[0]


def sent(aos: ScriptedAos) -> list[bytes | None]:
    return [request.get("X-Auth-Token") for request in aos.received]


async def test_it_is_read_again_when_it_changes_and_what_was_stored_survives(
    aos: ScriptedAos, gateway: RunningGateway, token_file: Path
) -> None:
    await ask(gateway, TARGET)
    # As Kubernetes does it: another file in its place.
    other = token_file.with_name("other")
    other.write_bytes(TWO)
    other.replace(token_file)
    await ask(gateway, STACK)
    assert is_hit(await ask(gateway, TARGET))
    token_file.write_bytes(ONE)
    await ask(gateway, STACK)
    assert sent(aos) == [ONE, TWO, ONE]


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"caf\xc3\xa9", b"x" * 65_537, None])
async def test_what_cannot_be_used_leaves_the_token_before_it_in_use(
    aos: ScriptedAos,
    gateway: RunningGateway,
    token_file: Path,
    content: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ask(gateway, STACK)
    if content is None:
        token_file.unlink()
    else:
        token_file.write_bytes(content)
    for _ in range(2):
        await ask(gateway, STACK)
    token_file.write_bytes(TWO)
    await ask(gateway, STACK)
    assert sent(aos) == [ONE, ONE, ONE, TWO]
    lines = [line.message for line in caplog.records if line.message.startswith("credentials")]
    assert lines[0].startswith("credentials down: token file: ")
    assert len(lines) == 2
    assert dict(gateway.app.metrics.credential_renewals) == {"renewed": 2, "failed": 1}


async def test_without_any_token_there_is_a_503(aos: ScriptedAos, token_file: Path) -> None:
    aos.answer(settled())
    token_file.write_bytes(b"\n")
    async with running(aos.url, **by_file(token_file)) as gateway:
        refused = await ask(gateway, TARGET)
        assert refused.status == 503
        assert b"token file" in refused.body
        assert gateway.app.metrics_snapshot()["credentials_unavailable"][()] == (1.0,)
        token_file.write_bytes(ONE)
        assert (await ask(gateway, TARGET)).status == 200
        assert gateway.app.metrics_snapshot()["credentials_unavailable"][()] == (0.0,)
    assert sent(aos) == [ONE]


async def test_after_a_401_it_is_read_again_even_if_it_looks_the_same(
    aos: ScriptedAos, gateway: RunningGateway, token_file: Path
) -> None:
    async def only_two(received: Received, conversation: Conversation) -> None:
        is_two = received.get("X-Auth-Token") == TWO
        await conversation.answer(settled() if is_two else Answer(401, body=b"no"))

    aos.answer(only_two)
    assert (await ask(gateway, TARGET)).status == 401
    assert aos.count() == 1
    times = os.stat(token_file)
    token_file.write_bytes(TWO + b"\n")
    os.utime(token_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (await ask(gateway, TARGET)).status == 200
    assert sent(aos) == [ONE, ONE, TWO]


async def test_a_reload_takes_another_file_which_is_another_caller(
    aos: ScriptedAos, gateway: RunningGateway, token_file: Path
) -> None:
    await ask(gateway, TARGET)
    other = token_file.with_name("other")
    other.write_bytes(TWO)
    await gateway.app.apply(loaded(aos.url, **by_file(other)))
    assert not is_hit(await ask(gateway, TARGET))
    assert sent(aos) == [ONE, TWO]


async def test_its_age_is_that_of_the_file(aos: ScriptedAos, now: MovableTime, token_file: Path) -> None:
    aos.answer(settled())
    async with running(aos.url, clock=now.clock, **by_file(token_file)) as gateway:
        await ask(gateway, TARGET)
        now.ahead_s = 1_000.0
        (age_s,) = gateway.app.metrics_snapshot()["credentials_age_seconds"][()]
    assert 1_000 <= age_s < 1_100


async def test_redis_holds_no_piece_of_it_and_another_machines_gateway_none_of_its_records(
    aos: ScriptedAos, redis: RedisServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path elsewhere may hold anybody's tokens."""
    aos.answer(settled())
    settings = by_file(token_file, redis__url=redis.url, redis__prefix=redis.prefix)
    for host, answered in (("one", "stored"), ("one", "hit"), ("two", "stored")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        async with running(aos.url, **settings) as gateway:
            response = await ask(gateway, TARGET)
            assert answered in (response.get("Cache-Status") or b"").decode()
    for name, value in (await redis.contents()).items():
        assert_absent(name + value, ONE)
