"""`aos-gateway check --iam`: one question, and what came back."""

import pytest

from gateway.cli.check import ask_iam
from gateway.config.secret import Secret
from tests.testbed.gateway import loaded
from tests.testbed.iam import ScriptedIam, refused, word
from tests.testbed.secrets import assert_absent, token

TOKEN = token("alice", 4_000)


async def _said(iam_url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    config = loaded("http://127.0.0.1:9", iam__url=iam_url, iam__timeout_s=1)
    code = await ask_iam(config, token=Secret(TOKEN.decode()))
    said = "".join(capsys.readouterr())
    assert_absent(said.encode(), TOKEN)
    return code, said


async def test_it_says_whose_the_token_is(iam: ScriptedIam, capsys: pytest.CaptureFixture[str]) -> None:
    iam.add(TOKEN, word(expires_at="2026-11-28T09:12:33.123000Z"))
    code, said = await _said(iam.url, capsys)
    assert code == 0
    for line in ("user: alice (", "project: project-a (", "roles: 2\n", "ends: 2026-11-28T09:12:33.123000Z"):
        assert line in said
    assert iam.asked[TOKEN] == 1


async def test_it_says_why_nobody_is_named(
    iam: ScriptedIam, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    iam.add(TOKEN, refused(404))
    assert await _said(iam.url, capsys) == (
        1,
        f"aos-gateway check: {iam.url} answered 404 and named no user\n",
    )
    nowhere = f"http://127.0.0.1:{free_port}"
    assert await _said(nowhere, capsys) == (1, f"aos-gateway check: {nowhere}: no answer (unreachable)\n")
    assert "--iam needs iam.url" in (await _said("", capsys))[1]
