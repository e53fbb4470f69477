"""A simulated AOS that demands valid tokens or signatures, with its IAM, behind a gateway that has them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.twin.profiles import DEMO
from gateway.twin.server import Twin
from tests.testbed.gateway import running
from tests.twin.caller import Caller
from tests.twin.conftest import LOOPBACK

from .kit import ACCESS_KEY, PASSWORD, SECRET_KEY, ask, by_key

USER = {"name": "robot", "domain": "company", "password": PASSWORD}
STACKS: dict[str, Any] = {
    "credentials__allow": ["GET /v2/stacks", "GET /v2/stacks/*", "GET /v2/stacks/*/actions/*"]
}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    """Somebody who may change a twin that has made its tokens itself, or accepts none."""
    twin = Twin(DEMO, seed=7)
    await twin.start(LOOPBACK, LOOPBACK)
    async with Caller(twin) as caller:
        await caller.control("POST", "/users", USER)
        await caller.control("POST", "/keys", {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY})
        await caller.control("POST", "/tokens", {"issued_only": True})
        yield caller
    await twin.close()


async def test_a_password_gets_what_it_accepts_and_again_when_it_is_revoked(caller: Caller) -> None:
    credentials = {"source": "password", "domain": "company", "user": "robot", "password": PASSWORD}
    settings: dict[str, Any] = {f"credentials__{name}": value for name, value in credentials.items()}
    settings |= {"iam__url": caller.twin.url, "credentials__project": "project-a", **STACKS}
    async with running(caller.twin.url, **settings) as gateway:
        assert (await ask(gateway, "/v2/stacks")).status == 200
        source = gateway.app.upstream.credentials
        assert source is not None
        ((_, token),) = await source.fields("GET", b"/", (), b"")
        assert (await caller.control("POST", "/revoke", {"token": token.decode()})).status == 200
        assert (await ask(gateway, "/v2/stacks")).status == 200


async def test_it_accepts_what_is_signed(caller: Caller) -> None:
    async with running(caller.twin.url, **by_key(**STACKS)) as gateway:
        assert (await ask(gateway, "/v2/stacks?name=a%20b&x=1&x=")).status == 200
    wrong = by_key(**STACKS) | {"credentials__secret_key": "wrong"}
    async with running(caller.twin.url, **wrong) as gateway:
        assert (await ask(gateway, "/v2/stacks")).status == 401
