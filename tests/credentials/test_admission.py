"""Which requests are given the gateway's credentials, and which never are."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.end_to_end.kit import ALICE, cache_status, get, is_hit, settled
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.secrets import token
from tests.testbed.tls import Authority
from tests.testbed.wire import ConnectionCut

from .kit import ask, by_file

ROBOT = token("robot, one", 4_000)
CLIENT = token("client", 40).decode()
STACK = f"/v2/stacks/{STACK_ID}"


async def test_a_request_without_credentials_goes_up_with_the_gateways_and_is_stored(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    first, second = await ask(gateway, TARGET), await ask(gateway, TARGET)
    assert cache_status(first).endswith("stored")
    assert is_hit(second)
    (sent,) = aos.received
    assert sent.all("X-Auth-Token") == [ROBOT]


async def test_one_with_credentials_of_its_own_goes_as_its_callers(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    await ask(gateway, TARGET)
    own = await get(gateway, TARGET, ("X-Project-Id", "p"))
    signed = await ask(gateway, TARGET, ("Authorization", "SDK-HMAC-SHA256 Access=A, Signature=0"))
    outside = await get(gateway, f"{STACK}/outputs")
    assert (own.status, signed.status, outside.status) == (200, 421, 200)
    assert [sent.all("X-Auth-Token") for sent in aos.received] == [[ROBOT], [ALICE], [ALICE]]


async def test_a_head_and_a_query_are_allowed_and_a_write_where_it_is_named(
    aos: ScriptedAos, token_file: Path
) -> None:
    aos.answer(settled())
    allow = ["GET /v2/stacks/*", "PUT /v2/stacks/*/actions"]
    async with running(aos.url, **by_file(token_file, credentials__allow=allow)) as gateway:
        assert (await ask(gateway, STACK, method="HEAD")).status == 200
        assert (await ask(gateway, f"{STACK}?marker=a%2Fb")).status == 200
        written = await ask(gateway, f"{STACK}/actions", method="PUT", body=b"{}")
        refused = await ask(gateway, f"{STACK}/actions", method="POST", body=b"{}")
    assert (written.status, refused.status) == (200, 403)
    assert [sent.method for sent in aos.received] == ["HEAD", "GET", "PUT"]
    assert {sent.get("X-Auth-Token") for sent in aos.received} == {ROBOT}


async def test_a_refusal_names_the_pattern_that_is_missing(gateway: RunningGateway) -> None:
    async def detail(target: str, method: str = "GET") -> str:
        refused = await ask(gateway, target, method=method)
        assert (refused.status, json.loads(refused.body)["code"]) == (403, "GATEWAY.4030001")
        return str(json.loads(refused.body)["detail"])

    assert '"GET /v2/stacks/*/outputs"' in await detail(f"{STACK}/outputs?x")
    assert '"DELETE /v2/stacks/*"' in await detail(STACK, "DELETE")
    assert "no pattern for" in await detail("/v2/stacks/x/(a)")
    assert "plain paths" in await detail(f"{STACK}%2Foutputs")


@pytest.mark.parametrize(
    "field",
    [
        ("X-Project-Id", "p"),
        ("x_auth_token", "t"),
        ("X-Auth-Token", ""),
        ("Authorization", "Basic YTpi"),
        ("Authorization", "Bearer"),
        ("X-Sdk-Date", "20261127T000000Z"),
        ("Cookie", "a=b"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X_Method_Override", "GET"),
        ("X-Original-URL", "/v2/stacks"),
        ("X-Rewrite-URL", "/v2/stacks"),
    ],
)
async def test_credentials_in_part_are_refused(
    aos: ScriptedAos, gateway: RunningGateway, field: tuple[str, str]
) -> None:
    refused = await ask(gateway, TARGET, field)
    assert refused.status == 400
    assert aos.heads == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Origin", "http://127.0.0.1:8080")], 403),
        ([("Origin", "null")], 403),
        ([("Sec-Fetch-Site", "cross-site")], 403),
        ([("Sec-Fetch-Site", "same-site")], 403),
        ([("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")], 403),
        ([("Sec-Fetch-Site", "none")], 200),
        ([("Sec-Fetch-Site", "same-origin")], 200),
        ([("Host", "evil.example")], 421),
        ([("Host", "localhost:1")], 200),
    ],
)
async def test_a_web_page_may_not_use_them(
    aos: ScriptedAos, gateway: RunningGateway, fields: list[tuple[str, str]], status: int
) -> None:
    headers = fields if fields[0][0] == "Host" else [("Host", gateway.address), *fields]
    assert (await ask(gateway, TARGET, *headers)).status == status
    assert len(aos.heads) == (status == 200)


async def test_a_target_of_another_host_is_refused(aos: ScriptedAos, gateway: RunningGateway) -> None:
    async with await RawClient.connect(gateway.address) as client:
        await client.send(f"GET http://evil.example{TARGET} HTTP/1.0\r\n\r\n".encode())
        assert (await client.read_response()).status == 421
    own = f"http://{gateway.address}{TARGET}"
    assert (await ask(gateway, own)).status == 200
    assert len(aos.received) == 1


async def test_the_client_token_is_needed_where_there_is_one_and_goes_no_further(
    aos: ScriptedAos, token_file: Path
) -> None:
    aos.answer(settled())
    settings = by_file(token_file, credentials__client_token=CLIENT)
    async with running(aos.url, **settings) as gateway:
        for value in (None, "Bearer", f"Bearer {CLIENT}x", f"Bearer {CLIENT[:-1]}", f"Bearer\t{CLIENT} x"):
            fields = [] if value is None else [("Authorization", value)]
            refused = await ask(gateway, TARGET, *fields)
            assert (refused.status, refused.get("WWW-Authenticate")) == (401, b"Bearer")
            refused = await get(gateway, TARGET, *fields) if fields else refused
            assert refused.status == 401
        assert aos.heads == []
        bearer = ("authorization", f"bearer  {CLIENT}")
        assert cache_status(await ask(gateway, TARGET, bearer)).endswith("stored")
        assert is_hit(await ask(gateway, TARGET, bearer))
        assert (await get(gateway, TARGET, bearer)).status == 200
        # Whoever has credentials needs no token.
        assert is_hit(await get(gateway, TARGET))
    assert [sent.get("X-Auth-Token") for sent in aos.received] == [ROBOT, ALICE]
    assert all(sent.get("Authorization") is None for sent in aos.received)


async def test_a_client_certificate_does_where_the_network_may_connect(
    aos: ScriptedAos, token_file: Path, authority: Authority
) -> None:
    aos.answer(settled())
    certificate, key = authority.files("127.0.0.1")
    tls = {"tls_cert": str(certificate), "tls_key": str(key), "tls_client_ca": str(authority.ca_file)}
    served = {f"server__{name}": value for name, value in tls.items()} | {"server__listen": "0.0.0.0:0"}
    async with running(aos.url, **by_file(token_file, **served)) as gateway:
        address = f"127.0.0.1:{gateway.address.rpartition(':')[2]}"
        shown = await fetch(address, TARGET, tls=authority.client_context(shows="robot"))
        with pytest.raises((OSError, ConnectionCut)):
            await fetch(address, TARGET, tls=authority.client_context())
    assert shown.status == 200
    assert len(aos.received) == 1


async def test_nothing_changes_for_anybody_where_the_source_is_the_caller(
    aos: ScriptedAos, lane: str
) -> None:
    aos.answer(settled())
    async with running(aos.url) as gateway:
        assert cache_status(await ask(gateway, TARGET, ("Origin", "http://x"))).endswith("detail=identity")
        assert (await ask(gateway, TARGET, ("Authorization", "Bearer x"))).status == 200
    assert [sent.get("Authorization") for sent in aos.received] == [None, b"Bearer x"]


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "Get", "PROPFIND", "QUERY")
_TARGETS = (
    f"{STACK}/outputs",
    f"{STACK}/inputs",
    f"{STACK}/actions/a/elements",
    "/v2/stacks",
    "/v2/templates/t",
    "/v1/stacks/s",
    "/",
    "*",
)
_ALLOWED = (STACK, TARGET)
_FIELDS = (
    ("X-HTTP-Method-Override", "GET"),
    ("X-Http-Method", "DELETE"),
    ("x_method_override", "PUT"),
    ("X-Original-URL", STACK),
    ("X-Rewrite-URL", f"{STACK}/outputs"),
    ("X_Auth_Token", "t"),
    ("X-AUTH-TOKEN", ""),
    ("X-Subject-Token", "t"),
    ("X-Project-Id", "other"),
    ("x_domain_id", "other"),
    ("Authorization", "Bearer t"),
    ("AUTHORIZATION", "Basic dDp0"),
    ("X-Sdk-Date", "20261127T000000Z"),
    ("Cookie", "session=1"),
    ("Origin", "http://localhost"),
    ("origin", "null"),
    ("Sec-Fetch-Site", "cross-site"),
    ("sec-fetch-site", "Same-Origin, cross-site"),
    ("Connection", "X-Auth-Token"),
    ("Connection", "close, Origin"),
    ("X-Forwarded-Host", "localhost"),
    ("Accept", "text/html"),
)
_HARMLESS = frozenset(
    {("Connection", "close, Origin"), ("X-Forwarded-Host", "localhost"), ("Accept", "text/html")}
)


def _spelled(rng: Random, target: str) -> str:
    """Spell a target in a way that some server might read as the same or as another one."""

    def escaped(part: str) -> str:
        at = rng.randrange(1, len(part)) if len(part) > 1 else 0
        return f"{part[:at]}%{ord(part[at]):02x}{part[at + 1 :]}" if part else part

    middle = target.rfind("/")
    spell: Callable[[], str] = rng.choice(
        (
            lambda: escaped(target),
            lambda: target.replace("/", "%2F"),
            lambda: target[:middle] + "//" + target[middle + 1 :],
            lambda: f"{target}/..",
            lambda: f"{target}/../outputs",
            lambda: f"{target}/./",
            lambda: f"{target}/",
            lambda: f"{target};a=b",
            lambda: f"{target}%00",
            lambda: f"{target}%3Fx",
            lambda: f"{target}%252e%252e",
            lambda: target.replace("/", "\\"),
            lambda: f"{target}\\..\\outputs",
            target.upper,
            lambda: f"http://evil.example{target}",
            lambda: f"//evil.example{target}",
            lambda: f"{target}?x=1",
            lambda: f"{target}?x=%2F../outputs",
            lambda: f"{target}/%2e%2e/outputs",
            lambda: f"/v2/stacks/../{target.lstrip('/')}",
        )
    )
    return spell()


async def test_nothing_outside_the_list_and_no_web_page_reaches_aos_with_the_gateways_credentials(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    """However the target is spelled, the method is named, and whatever fields come with it."""
    rng = Random(15)
    aos.answer(Answer(body=b"{}"))
    given = 0
    for _ in range(400):
        target = rng.choice((*_TARGETS, *_ALLOWED, *_ALLOWED))
        target = target if rng.random() < 0.4 else _spelled(rng, target)
        method = rng.choice(("GET", "HEAD") if rng.random() < 0.7 else _METHODS)
        fields = rng.sample(_FIELDS, rng.choice((0, 0, 0, 1, 2)))
        body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
        before = len(aos.heads)
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes(method, target, fields, body, host=gateway.address))
            response = await client.read_response(method)
        is_allowed = method in {"GET", "HEAD"} and target.partition("?")[0] in _ALLOWED
        is_given = any(ROBOT in sent.raw_head for sent in aos.heads[before:])
        assert is_given == (is_allowed and _HARMLESS.issuperset(fields)), (method, target, fields)
        assert is_given == (response.status == 200)
        assert len(aos.heads) - before == is_given
        given += is_given
    # The list lets others through.
    assert given > 20
