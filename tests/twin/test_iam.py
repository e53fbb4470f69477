"""The twin's IAM over real sockets: tokens for passwords, whose a token is, and who may call AOS."""

import json
import time
from datetime import datetime
from typing import Any

import pytest

from gateway.core.aos.signing import AccessKey, sign
from gateway.twin.profiles import THROTTLED
from gateway.twin.server import Twin
from gateway.twin.signatures import Key
from tests.testbed.client import fetch
from tests.testbed.response import RawResponse

from .caller import ALICE, Answer, Caller
from .conftest import LOOPBACK

TOKENS = "/v3/auth/tokens"
ASK = f"{TOKENS}?nocatalog=true"
PROJECT = {"project": {"name": "project-a"}}


def login(
    password: str = "secret", scope: Any = PROJECT, method: str = "password", **user: Any
) -> dict[str, Any]:
    who = {"name": "alice", "password": password, "domain": {"name": "company"}} | user
    identity = {"methods": [method], "password": {"user": who}}
    return {"auth": {"identity": identity} | ({} if scope is None else {"scope": scope})}


async def know_alice(caller: Caller, **changes: Any) -> None:
    user = {"name": "alice", "domain": "company", "password": "secret"} | changes
    assert (await caller.control("POST", "/users", user)).status == 200


async def token_of(caller: Caller, body: Any = None) -> str:
    answer = await caller.call("POST", ASK, body or login(), token=None)
    assert answer.status == 201
    return answer.headers["X-Subject-Token"]


async def about(caller: Caller, token: str, by: str | None = None) -> Answer:
    return await caller.get(ASK, token=by or token, **{"X-Subject-Token": token})


async def word(caller: Caller, token: str) -> Any:
    """What IAM says of a token, without its times."""
    told = (await about(caller, token)).json["token"]
    del told["expires_at"], told["issued_at"]
    return told


async def test_a_password_gets_a_token_of_realistic_length_that_iam_and_aos_know(caller: Caller) -> None:
    await know_alice(caller)
    made = await caller.call("POST", TOKENS, login(), token=None)
    token, told = made.headers["X-Subject-Token"], made.json["token"]
    assert (made.status, token[:3]) == (201, "MII")
    assert 5_000 < len(token) < 8_000
    lives_s = datetime.fromisoformat(told["expires_at"]).timestamp() - time.time()
    assert 86_390 < lives_s <= 86_400
    assert {role["id"] for role in told["roles"]} == {"0"}
    assert [service["name"] for service in told.pop("catalog")] == ["iam", "aos"]
    assert (await about(caller, token)).json["token"] == told
    assert (told["user"]["name"], told["user"]["domain"]["name"]) == ("alice", "company")
    assert told["project"] == {"domain": told["user"]["domain"], "id": "project-a", "name": "project-a"}
    record = await caller.create()
    assert (await caller.get(record, token=token)).status == 200
    assert (await caller.get(record, token=await token_of(caller))).status == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        ({"auth": {}}, 400, "body"),
        (
            login() | {"auth": {"identity": login()["auth"]["identity"] | {"methods": ["totp"]}}},
            400,
            "method",
        ),
        (login(scope={"project": {}}), 400, "project"),
        (login("wrong"), 401, "password"),
        (login(""), 401, "password"),
        (login(name="nobody"), 401, "password"),
        (login(domain={"name": "other"}), 401, "password"),
    ],
)
async def test_a_wrong_login_gets_the_error_of_iam(caller: Caller, body: Any, status: int, said: str) -> None:
    await know_alice(caller)
    answer = await caller.call("POST", TOKENS, body, token=None)
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, status)
    assert said in error["message"]
    assert error["title"] == {400: "Bad Request", 401: "Unauthorized"}[status]
    assert "X-Subject-Token" not in answer.headers


async def test_a_user_without_a_password_cannot_log_in(caller: Caller) -> None:
    await know_alice(caller, password="")
    assert (await caller.call("POST", TOKENS, login(""), token=None)).status == 401


async def test_a_token_of_the_account_is_for_no_project(caller: Caller) -> None:
    await know_alice(caller)
    for scope in ({"domain": {"name": "company"}}, None):
        token = await token_of(caller, login(scope=scope))
        told = await word(caller, token)
        assert told["domain"] == told["user"]["domain"]
        assert "project" not in told
        assert (await caller.get("/v2/stacks", token=token)).status == 401


async def test_an_issued_token_ends_by_its_time_or_when_it_is_revoked(caller: Caller) -> None:
    await know_alice(caller, lives_s=600)
    kept, revoked = [await token_of(caller) for _ in range(2)]
    await caller.control("POST", "/revoke", {"token": revoked})
    for token, status in ((kept, 200), (revoked, 401)):
        assert (await about(caller, token)).status == status
        assert (await caller.get("/v2/stacks", token=token)).status == status
    assert (await about(caller, revoked, by=kept)).status == 404
    await caller.control("POST", "/clock", {"advance_s": 601})
    assert (await about(caller, kept)).json["error"]["title"] == "Unauthorized"
    refused = await caller.get("/v2/stacks", token=kept)
    assert (refused.status, refused.json["error_code"]) == (401, "APIGW.0301")


async def test_iam_says_of_other_tokens_what_they_say_themselves(caller: Caller) -> None:
    one, two = await word(caller, f"{ALICE}:1"), await word(caller, f"{ALICE}:2")
    assert one == two
    assert (one["user"]["name"], one["project"]["id"]) == ("alice", "project-a")
    others = [await word(caller, token) for token in ("project-b:alice", "project-a:bob", "plain", "plain2")]
    assert all(one != other for other in others)
    assert others[2] != others[3]
    assert "plain" not in json.dumps(others)


async def test_changing_a_user_changes_iams_word_and_ends_the_issued_tokens(caller: Caller) -> None:
    await know_alice(caller)
    issued, before = await token_of(caller), await word(caller, ALICE)
    more = {"mfa_authn_at": "2026-01-01T00:00:00.000000Z", "assumed_by": {"user": {"id": "x"}}}
    await know_alice(caller, domain="twin", roles=["readonly"], members=more)
    after = await word(caller, ALICE)
    assert after == before | more | {"roles": [{"id": "0", "name": "readonly"}]}
    assert (await about(caller, issued)).status == 200
    await know_alice(caller, password="changed")
    assert (await about(caller, issued)).status == 401
    assert (await caller.get("/v2/stacks", token=issued)).status == 401


async def test_a_token_may_be_verified_by_its_user_and_by_a_security_administrator(caller: Caller) -> None:
    await caller.control("POST", "/users", {"name": "root", "roles": ["secu_admin"]})
    assert (await about(caller, ALICE, by=f"{ALICE}:2")).status == 200
    assert (await about(caller, ALICE, by="project-b:root")).status == 200
    denied = await about(caller, ALICE, by="project-a:bob")
    assert (denied.status, denied.json["error"]["title"]) == (403, "Forbidden")
    assert (await caller.get(ASK)).status == 400
    assert (await caller.get(ASK, token=None, **{"X-Subject-Token": ALICE})).status == 401
    await know_alice(caller)
    assert (await about(caller, await token_of(caller), by="project-b:root")).status == 403


async def test_aos_can_take_issued_tokens_alone(caller: Caller) -> None:
    await know_alice(caller)
    token = await token_of(caller)
    assert (await caller.control("POST", "/tokens", {"issued_only": True})).json == {"issued_only": True}
    assert (await caller.get("/v2/stacks", token=token)).status == 200
    assert (await caller.get("/v2/stacks")).status == 401
    assert (await about(caller, ALICE)).status == 401
    await caller.control("POST", "/reset")
    assert (await caller.get("/v2/stacks")).status == 200
    assert (await about(caller, token)).json["token"]["user"]["name"] != "alice"


async def test_without_a_control_address_one_user_and_one_key_are_known(caller: Caller) -> None:
    token = await token_of(caller, login("twin", name="twin", domain={"name": "twin"}))
    assert (await caller.get("/v2/stacks", token=token)).status == 200
    assert (await signed(caller, AccessKey("twin", "twin"))).status == 200


async def signed(
    caller: Caller, key: AccessKey, target: str = "/v2/stacks", sent: str = "", **fields: str
) -> RawResponse:
    """Send a signed request, or with `sent` one that was signed for another target."""
    address = caller.twin.url.removeprefix("http://")
    headers = [("Host", address), *((name.replace("_", "-"), value) for name, value in fields.items())]
    headers += sign(key, "GET", target, headers, b"", time.time())
    return await fetch(address, sent or target, headers=headers)


async def test_a_signed_request_sees_the_keys_project(caller: Caller) -> None:
    await caller.create()
    key = {"access_key": "AK", "secret_key": "SK", "security_token": "temporary", "project": "project-a"}
    await caller.control("POST", "/keys", key)
    alices = AccessKey("AK", "SK", "temporary")
    assert len(json.loads((await signed(caller, alices, "/v2/stacks?project_id=project-a")).body)) == 1
    assert json.loads((await signed(caller, alices, X_Project_Id="project-b")).body) == []
    changed = await signed(caller, alices, "/v2/stacks?limit=1", sent="/v2/stacks?limit=2")
    assert (changed.status, json.loads(changed.body)["error_code"]) == (401, "APIGW.0301")
    assert (await signed(caller, AccessKey("AK", "KS", "temporary"))).status == 401
    await caller.control("POST", "/clock", {"advance_s": 901})
    late = await signed(caller, alices)
    assert b"15 minutes" in late.body


async def test_faults_reach_iam_as_they_reach_aos(caller: Caller) -> None:
    await caller.fault(kind="throttle", limit=2, per="ip", path=TOKENS)
    assert [(await about(caller, ALICE)).status for _ in range(3)] == [200, 200, 429]
    assert (await caller.get("/v2/stacks")).status == 200
    await caller.control("DELETE", "/faults")
    await caller.fault(kind="status", status=503, shape="iam", path="/v3/*", count=1)
    answer = await about(caller, ALICE)
    assert answer.json["error"]["title"] == "Service Unavailable"
    await caller.fault(kind="latency", delay_s=0.2, path=TOKENS, method="POST", count=1)
    began_s = time.monotonic()
    await caller.call("POST", TOKENS, login(), token=None)
    assert time.monotonic() - began_s >= 0.2


async def test_the_throttled_profile_counts_iam_apart_from_aos() -> None:
    twin = Twin(THROTTLED)
    twin.world.clock.freeze()
    await twin.start(LOOPBACK, LOOPBACK)
    async with Caller(twin) as caller:
        assert [(await about(caller, ALICE)).status for _ in range(6)] == [200] * 5 + [429]
        assert [(await caller.get("/v2/stacks")).status for _ in range(6)] == [200] * 5 + [429]
    await twin.close()


async def test_two_issued_tokens_of_a_user_are_throttled_together(caller: Caller) -> None:
    await know_alice(caller)
    one, two = [await token_of(caller) for _ in range(2)]
    await caller.fault(kind="throttle", limit=1)
    assert [(await caller.get("/v2/stacks", token=token)).status for token in (one, two)] == [200, 429]
    assert (await caller.get("/v2/stacks")).status == 200


async def test_the_state_counts_and_tells_no_secret(caller: Caller) -> None:
    await know_alice(caller, password="pass of alice")
    await caller.control("POST", "/keys", {"access_key": "AK", "secret_key": "secret of AK"})
    token = await token_of(caller, login("pass of alice"))
    answer = await caller.control("GET", "/state")
    state = answer.json
    assert (state["users"], state["access_keys"], state["issued_tokens"]) == (2, 2, 1)
    assert state["answered"]["create_token"] == {"201": 1}
    shown = answer.body.decode() + repr(caller.twin.world.iam.users) + repr(caller.twin.world.iam.keys)
    assert not [secret for secret in ("pass of alice", "secret of AK", token[:16]) if secret in shown]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/users", {"password": "p"}, "name"),
        ("/users", {"name": "a", "lives_s": 0}, "lives_s"),
        ("/users", {"name": "a", "role": []}, "role"),
        ("/keys", {"access_key": "AK"}, "secret_key"),
        ("/tokens", {"issued_only": 1}, "issued_only"),
    ],
)
async def test_a_wrong_control_call_names_the_member(
    caller: Caller, path: str, body: Any, named: str
) -> None:
    answer = await caller.control("POST", path, body)
    assert answer.status == 400
    assert named in answer.json["error"]


async def test_tables_are_bounded_and_the_oldest_goes(twin: Twin) -> None:
    iam = twin.world.iam
    for number in range(1_100):
        iam.put_key(Key(access_key=f"K{number}", secret_key="secret"))
    assert len(iam.keys) == 1_000
    assert "K1099" in iam.keys
    assert "twin" not in iam.keys
