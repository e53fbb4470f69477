"""What the caller asks reaches the upstream byte for byte, less what belongs to one hop."""

import re

import pytest

from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import RunningGateway, running

from .kit import OTHER_ROUTE, get, is_hit, pairs, settled

_VIA = re.compile(rb"1\.1 aos-gateway \([0-9a-f]{8}\)")


@pytest.mark.parametrize(
    "target",
    [
        "/v2/stacks?a=1&a=2&&b?q=%20+%2B%zz",
        "//v2/./stacks/../%2e%2E/%2F/%41",
        "/v2/a;b=c,d/e@f:g!$&'()*+~\"<>{}|\\^`[::]?x=[1]",
        "/%",
        "/??",
        TARGET + "?",
        "/" + TARGET,
        TARGET.replace("-", "%2D"),
        "/" + "x" * 9000,
    ],
)
async def test_path_and_query_arrive_byte_for_byte(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.answer(settled())
    for _ in range(2):
        answer = await get(gateway, target)
        assert answer.status == 200
    assert [received.target for received in aos.received] == [target, target]


@pytest.mark.parametrize("target", ["/v2/a#b", "*", "", "/a b"])
async def test_a_target_that_cannot_be_carried_is_refused(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    answer = await get(gateway, target)
    assert answer.status == 400
    assert answer.get("content-type") == b"application/problem+json"
    assert aos.heads == []


async def test_an_absolute_target_goes_on_as_path(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    absolute = f"http://{gateway.address}{TARGET}"
    await get(gateway, absolute)
    assert is_hit(await get(gateway))
    assert aos.received[0].target == TARGET
    assert (await get(gateway, absolute, ("Host", "other.example"))).status == 400


async def test_a_base_path_goes_before_every_target(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url + "/base/%7Epath/") as gateway:
        await get(gateway)
        assert is_hit(await get(gateway))
        await get(gateway, "/v2/stacks?")
    assert [received.target for received in aos.received] == [
        "/base/%7Epath" + TARGET,
        "/base/%7Epath/v2/stacks?",
    ]


@pytest.mark.parametrize("target", ["*", "http://{address}"])
async def test_options_about_the_whole_server_is_asked_of_the_upstream(aos: ScriptedAos, target: str) -> None:
    aos.answer(Answer(headers=[("Allow", "GET, PUT")]))
    async with running(aos.url + "/base") as gateway:
        answer = await get(gateway, target.format(address=gateway.address), method="OPTIONS")
    assert (answer.status, answer.get("allow")) == (200, b"GET, PUT")
    assert [(received.method, received.target) for received in aos.received] == [("OPTIONS", "*")]


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "PROPFIND"])
async def test_any_method_passes_with_its_body(
    aos: ScriptedAos, gateway: RunningGateway, method: str
) -> None:
    aos.answer(Answer(202, body=b"ok"))
    body = b'{"a": 1}\r\n\x00'
    answer = await get(gateway, "/v2/x", ("Content-Type", "a/b"), method=method, body=body)
    assert (answer.status, answer.body) == (202, b"ok")
    (received,) = aos.received
    assert (received.method, received.body) == (method, body)
    assert received.get("content-type") == b"a/b"
    assert received.get("content-length") == b"%d" % len(body)


@pytest.mark.parametrize("method", ["get", "X-Own"])
async def test_a_method_that_the_parser_does_not_know_is_refused(
    aos: ScriptedAos, gateway: RunningGateway, method: str
) -> None:
    assert (await get(gateway, method=method)).status == 400
    assert aos.heads == []


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
async def test_connect_and_trace_are_refused(aos: ScriptedAos, gateway: RunningGateway, method: str) -> None:
    target = "h:1" if method == "CONNECT" else OTHER_ROUTE
    answer = await get(gateway, target, method=method)
    assert answer.status == 405
    # RFC 9110 §15.5.6, §6.6.1
    assert (answer.get("allow") or b"").split(b", ")[:2] == [b"GET", b"HEAD"]
    assert answer.get("date") is not None
    assert aos.heads == []


async def test_request_fields_arrive_in_order_and_case(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer())
    fields: list[tuple[str | bytes, str | bytes]] = [
        ("x-ODD", "1"),
        ("User-Agent", "me/1"),
        ("X-Repeated", "a"),
        (b"X-Latin", b"caf\xe9"),
        ("x-repeated", ""),
        ("Accept", "*/*"),
        ("traceparent", "00-1-2-3"),
        ("If-None-Match", '"x"'),
        ("Range", "bytes=0-1"),
        ("X-Request-Id", "mine"),
        ("X_Auth_Token", "x"),
        ("Prefer", "wait=1"),
    ]
    await fetch(gateway.address, OTHER_ROUTE, headers=fields)
    assert aos.received[0].headers[1 : 1 + len(fields)] == pairs(fields)


async def test_100_continue_is_sent_when_the_body_is_read_and_expect_is_not_forwarded(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(201))
    async with await RawClient.connect(gateway.address) as client:
        head = request_bytes("POST", "/v2/x", [("Expect", "100-Continue"), ("Content-Length", "3")])
        await client.send(head)
        await aos.wait_heads(1)
        await client.send(b"abc")
        answer = await client.read_response("POST")
        assert [interim.status for interim in answer.interim] == [100]
        assert answer.status == 201
    assert aos.received[0].get("expect") is None
    assert aos.received[0].body == b"abc"


async def test_another_expectation_is_refused(aos: ScriptedAos, gateway: RunningGateway) -> None:
    answer = await get(gateway, "/v2/x", ("Expect", "magic"), method="POST", body=b"abc")
    assert answer.status == 417
    assert aos.heads == []


async def test_hop_by_hop_fields_stay_on_their_hop_in_both_directions(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    hop: list[tuple[str, str]] = [
        ("Connection", "X-Own, x-other"),
        ("connection", "keep-alive"),
        ("X-Own", "1"),
        ("X-OTHER", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Authentication-Info", "x"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("HTTP2-Settings", "x"),
        ("X-Kept", "yes"),
    ]
    gone = {name.lower().encode() for name, _ in hop} - {b"x-kept"}
    for target in (OTHER_ROUTE, TARGET):
        aos.answer(Answer(headers=hop, body=record()))
        answer = await get(gateway, target, *hop)
        assert not gone & {name.lower() for name in answer.names()}
        assert not gone & {name.lower() for name in aos.received[-1].names()}
        assert answer.get("x-kept") == aos.received[-1].get("x-kept") == b"yes"


async def test_an_upgrade_is_not_passed_on(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(body=b"plain"))
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(2):
            answer = await client.request(
                "GET", OTHER_ROUTE, [("Connection", "Upgrade"), ("Upgrade", "websocket")]
            )
            assert (answer.status, answer.body) == (200, b"plain")
    assert aos.received[0].get("upgrade") is None


@pytest.mark.parametrize(("target", "name"), [(TARGET, "X-Auth-Token"), (OTHER_ROUTE, "Content-Length")])
async def test_connection_may_not_name_a_field_that_must_arrive(
    aos: ScriptedAos, gateway: RunningGateway, target: str, name: str
) -> None:
    answer = await get(gateway, target, ("Connection", f"close, {name}"))
    assert answer.status == 400
    assert aos.heads == []


async def test_via_is_appended_in_both_directions(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(headers=[("Via", "1.1 inner")], body=b"x"))
    answer = await get(gateway, OTHER_ROUTE, ("Via", "1.0 outer"))
    for fields in (answer.all("via"), aos.received[0].all("via")):
        assert _VIA.fullmatch(b", ".join(fields).split(b", ")[-1])
    assert answer.all("via")[0] == b"1.1 inner"
    assert aos.received[0].all("via")[0] == b"1.0 outer"


async def test_a_request_that_comes_back_is_a_loop(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(body=b"x"))
    (via,) = (await get(gateway, OTHER_ROUTE)).all("via")
    for target in (OTHER_ROUTE, TARGET):
        answer = await get(gateway, target, ("Via", b"1.1 a, " + via + b", 1.1 b"))
        assert answer.status == 502
        assert answer.get("proxy-status") == b"aos-gateway; error=proxy_loop_detected"
    assert (await get(gateway, OTHER_ROUTE, ("Via", "1.1 aos-gateway (00000000)"))).status == 200
    assert aos.count() == 2


async def test_forwarded_fields_are_appended(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer())
    await get(
        gateway,
        OTHER_ROUTE,
        ("Host", "public.example"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "first.example"),
    )
    (received,) = aos.received
    assert received.all("x-forwarded-for") == [b"10.0.0.1, 127.0.0.1"]
    assert received.all("x-forwarded-proto") == [b"https, http"]
    assert received.all("x-forwarded-host") == [b"first.example, public.example"]
    assert received.all("host") == [aos.address.encode()]


async def test_a_request_without_id_gets_one_and_each_its_own(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(404))
    for target in (TARGET, OTHER_ROUTE):
        await get(gateway, target)
    ids = [received.get("x-request-id") for received in aos.received]
    assert all(one is not None and re.fullmatch(rb"[0-9a-f]{32}", one) for one in ids)
    assert len(set(ids)) == 2
    await get(gateway, TARGET, ("x-request-id", "mine"))
    assert aos.received[-1].all("x-request-id") == [b"mine"]
