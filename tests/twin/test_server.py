"""The twin over real sockets: its API, its faults and its control address."""

import asyncio
import gzip
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.config.address import TcpAddress, UnixAddress, parse_address
from gateway.twin.api import MAX_BODY_BYTES
from gateway.twin.fault_book import MAX_FAULTS
from gateway.twin.profiles import DEMO, LOAD, THROTTLED, Profile, TwinError
from gateway.twin.server import Twin, run
from tests.testbed.payloads import payload

from .caller import ALICE, Caller, phase_of

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)
BOB = "project-b:bob"
NOT_FOUND = json.loads(payload("error__404"))


async def test_an_execution_can_be_polled_from_pending_to_succeeded(caller: Caller) -> None:
    record = await caller.create()
    seen = []
    for _ in range(20):
        answer = await caller.get(record)
        assert answer.status == 200
        seen.append((phase_of(answer), answer.json["status"]["progress"]))
        caller.twin.world.clock.advance(0.5)
    assert seen[0] == ("Pending", 0)
    assert seen[-1] == ("Succeeded", 100)
    assert [phase for phase, _ in seen] == sorted(
        (phase for phase, _ in seen), key=("Pending", "Running", "Succeeded").index
    )
    assert sorted(progress for _, progress in seen) == [progress for _, progress in seen]
    assert len({progress for _, progress in seen}) > 5


async def test_a_stack_stays_idle_unless_its_creation_is_ordered(caller: Caller) -> None:
    answer = await caller.call("POST", "/v2/stacks", {"name": "web", "template_id": "template"})
    assert answer.status == 201
    stack = f"/v2/stacks/{answer.json['guid']}"
    assert (await caller.get(f"{stack}/actions")).json == []
    started = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "create", "timeout": 20})
    assert started.status == 200
    assert started.json["last_action_id"] == ""
    record = (await caller.get(f"{stack}/actions/{started.json['action_id']}")).json
    assert record["spec"]["timeoutInMinutes"] == 20


async def test_a_lifecycle_answers_in_the_published_shape(caller: Caller) -> None:
    record = await caller.create()
    stack, _, name = record.partition("/actions/")
    caller.twin.world.clock.advance(10)
    started = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "upgrade", "inputs": {"a": 1}})
    assert list(started.json) == list(json.loads(payload("lifecycle-response")))
    assert started.json["last_action_id"] == name
    assert started.json["action_id"].startswith("web-")


@pytest.mark.parametrize(
    "inputs", [{"twin_outcome": "Failed", "twin_duration_s": 4}, '{"twin_outcome": "Failed"}']
)
async def test_a_caller_can_say_how_an_execution_ends(caller: Caller, inputs: Any) -> None:
    stack = (await caller.create()).partition("/actions/")[0]
    caller.twin.world.clock.advance(10)
    started = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "upgrade", "inputs": inputs})
    caller.twin.world.clock.advance(10)
    answer = await caller.get(f"{stack}/actions/{started.json['action_id']}")
    assert phase_of(answer) == "Failed"
    assert answer.json["status"]["progress"] < 100


async def test_an_execution_can_be_cancelled(caller: Caller) -> None:
    record = await caller.create()
    stack, _, name = record.partition("/actions/")
    caller.twin.world.clock.advance(3)
    cancelled = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "cancel"})
    assert cancelled.json["action_id"] == name
    assert phase_of(await caller.get(record)) == "Cancelling"
    caller.twin.world.clock.advance(DEMO.cancel_s)
    assert phase_of(await caller.get(record)) == "Cancelled"
    again = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "cancel"})
    assert again.status == 400


async def test_a_second_lifecycle_is_refused_while_one_is_under_way(caller: Caller) -> None:
    stack = (await caller.create()).partition("/actions/")[0]
    answer = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "upgrade"})
    assert answer.status == 400
    assert answer.json["code"].startswith("SVCSTG.AOS.400")


@pytest.mark.parametrize("suffix", ["", "?force=false", "?force=true"])
async def test_a_delete_answers_at_once_and_takes_effect_later(caller: Caller, suffix: str) -> None:
    record = await caller.create()
    stack, _, name = record.partition("/actions/")
    caller.twin.world.clock.advance(10)
    deleted = await caller.call("DELETE", stack + suffix)
    assert deleted.status == 200
    assert deleted.json["last_action_id"] == name
    deletion = f"{stack}/actions/{deleted.json['action_id']}"
    assert phase_of(await caller.get(deletion)) == "Pending"
    caller.twin.world.clock.advance(1)
    assert phase_of(await caller.get(deletion)) == "Running"
    assert phase_of(await caller.get(record)) == "Succeeded"
    caller.twin.world.clock.advance(5)
    for path in (stack, record, deletion, f"{stack}/actions", f"{stack}/elements", f"{stack}/outputs"):
        gone = await caller.get(path)
        assert (gone.status, gone.json) == (404, NOT_FOUND)
    assert (await caller.call("DELETE", stack)).status == 404


async def test_a_list_has_the_newest_ten_and_last_the_newest_one(caller: Caller) -> None:
    stack = (await caller.create()).partition("/actions/")[0]
    names = []
    for _ in range(12):
        caller.twin.world.clock.advance(10)
        started = await caller.call("PUT", f"{stack}/actions", {"lifecycle": "upgrade"})
        names.append(started.json["action_id"])
    for query, expected in (("", names[:1:-1]), ("?last=false", names[:1:-1]), ("?last=true", names[-1:])):
        listed = await caller.get(f"{stack}/actions{query}")
        assert [record["metadata"]["name"] for record in listed.json] == expected
    assert (await caller.get(f"{stack}/actions?last=1")).status == 400


async def test_stacks_elements_inputs_and_outputs_can_be_read(caller: Caller) -> None:
    record = await caller.create(inputs_json={"image": "nginx", "password": "hush"})
    stack = record.partition("/actions/")[0]
    caller.twin.world.clock.advance(10)
    (listed,) = (await caller.get("/v2/stacks?project_id=project-a")).json
    single = await caller.get(stack)
    assert listed["guid"] == single.json["guid"] == stack.removeprefix("/v2/stacks/")
    assert single.json["object"]["status"]["phase"] == "CreateSucceeded"
    elements = (await caller.get(f"{stack}/elements")).json
    assert [element["id"] for element in elements] == ["hello-app", "hello-component", "hello-package"]
    assert (await caller.get(f"{stack}/elements/hello-app")).json["id"] == "hello-app"
    assert (await caller.get(f"{stack}/elements/unknown")).status == 404
    assert (await caller.get(f"{stack}/inputs")).json == {"inputs": {"image": "nginx", "password": "******"}}
    assert (await caller.get(f"{stack}/outputs")).json["outputs"]["stack_name"]["value"] == "web"


async def test_other_projects_see_nothing(caller: Caller) -> None:
    record = await caller.create()
    stack = record.partition("/actions/")[0]
    assert (await caller.get(record, token="project-a:another")).status == 200
    for token in (BOB, "project-a", "project-a-b:alice"):
        for path in (record, stack, f"{stack}/actions"):
            answer = await caller.get(path, token=token)
            assert (answer.status, answer.json) == (404, NOT_FOUND)
        assert (await caller.call("DELETE", stack, token=token)).status == 404
        assert (await caller.get("/v2/stacks", token=token)).json == []
        assert (await caller.get("/v2/stacks?project_id=project-a", token=token)).json == []


async def test_a_token_without_a_colon_is_a_project_of_its_own_and_stands_in_no_body(caller: Caller) -> None:
    token = "MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTAL" * 300
    wanted = {"name": "web", "template_id": "template", "action_parameters": {"auto_create": True}}
    created = await caller.call("POST", "/v2/stacks", wanted, token=token)
    stack = f"/v2/stacks/{created.json['guid']}"
    listed = await caller.get(f"{stack}/actions", token=token)
    assert listed.status == 200
    assert len(created.json["project_id"]) == 32
    assert token[:16].encode() not in created.body + listed.body
    assert (await caller.get(stack, token=token + "x")).status == 404


@pytest.mark.parametrize("token", [None, ""])
async def test_a_missing_token_is_answered_as_the_api_gateway_does(caller: Caller, token: str | None) -> None:
    answer = await caller.get(await caller.create(), token=token)
    assert answer.status == 401
    assert answer.json["error_code"] == "APIGW.0301"
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]


async def test_a_revoked_token_is_refused_and_others_are_not(caller: Caller) -> None:
    record = await caller.create()
    revoked = await caller.control("POST", "/revoke", {"token": ALICE})
    assert ALICE.encode() not in revoked.body
    assert (await caller.get(record)).status == 401
    assert (await caller.get(record, token="project-a:another")).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/v2", "/v2/foo", "/v2/stacks/a/b", "/v2/stacks/a/actions/b/c", "/v1/stacks"]
)
async def test_unknown_paths_are_answered_by_the_api_gateway(caller: Caller, path: str) -> None:
    answer = await caller.get(path)
    assert (answer.status, answer.json["error_code"]) == (404, "APIGW.0101")


async def test_an_unknown_method_is_an_unknown_api(caller: Caller) -> None:
    answer = await caller.call("PATCH", "/v2/stacks")
    assert (answer.status, answer.json["error_code"]) == (404, "APIGW.0101")


@pytest.mark.parametrize(
    "path",
    ["/v2/stacks/", f"/v2/stacks/{'a' * 65}", "/v2/stacks/a/actions/", f"/v2/stacks/a/actions/{'%61' * 65}"],
)
async def test_an_id_of_another_length_is_a_bad_request(caller: Caller, path: str) -> None:
    answer = await caller.get(path)
    assert answer.status == 400
    assert list(answer.json) == list(NOT_FOUND)


async def test_an_id_of_64_characters_is_looked_up(caller: Caller) -> None:
    assert (await caller.get(f"/v2/stacks/{'a' * 64}/actions/{'%61' * 64}")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {"name": "web"},
        {"name": "1web", "template_id": "t"},
        {"name": "w" * 54, "template_id": "t"},
        {"name": "web", "template_id": ""},
        {"name": "web", "template_id": "t", "project_id": "project-b"},
        {"name": "web", "template_id": "t", "labels": {"a b": "c"}},
        {"name": "web", "template_id": "t", "inputs_json": "[1]"},
        {"name": "web", "template_id": "t", "inputs_json": {"number": 2**64}},
        b'{"name": "web", "template_id": "t", "inputs_json": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
        b'{"name": "web", "template_id": "t", "description": "\\ud800"}',
        {"name": "web", "template_id": "t", "action_parameters": {"timeout": 1_441}},
    ],
)
async def test_a_stack_that_aos_would_refuse_is_a_bad_request(caller: Caller, body: Any) -> None:
    answer = await caller.call("POST", "/v2/stacks", body)
    assert answer.status == 400
    assert answer.json["extend"]
    assert (await caller.get("/v2/stacks")).json == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"lifecycle": "explode"},
        {"lifecycle": "upgrade", "failure_strategy": "Rollback"},
        {"lifecycle": "upgrade", "inputs": {"twin_outcome": "Fine"}},
        {"lifecycle": "upgrade", "inputs": {"twin_duration_s": 0}},
    ],
)
async def test_a_lifecycle_that_makes_no_sense_is_a_bad_request(caller: Caller, body: Any) -> None:
    created = await caller.call("POST", "/v2/stacks", {"name": "web", "template_id": "template"})
    stack = f"/v2/stacks/{created.json['guid']}"
    assert (await caller.call("PUT", f"{stack}/actions", body)).status == 400
    assert (await caller.get(f"{stack}/actions")).json == []


async def test_a_name_in_use_is_refused_in_the_published_words(caller: Caller) -> None:
    await caller.create()
    answer = await caller.call("POST", "/v2/stacks", {"name": "web", "template_id": "template"})
    assert (answer.status, answer.json) == (400, json.loads(payload("error__aos_02_0021")))


async def test_a_body_beyond_the_limit_is_refused_and_one_at_the_limit_is_read(caller: Caller) -> None:
    filler = b" " * (MAX_BODY_BYTES - 1)
    assert (await caller.call("POST", "/v2/stacks", b"{" + filler)).json["code"] == "SVCSTG.AOS.4000010"
    refused = await caller.call("POST", "/v2/stacks", b"{}" + filler)
    assert (refused.status, refused.json["code"]) == (400, "SVCSTG.AOS.4001101")
    assert refused.headers["Connection"] == "close"


async def test_expect_100_continue_gets_100(twin: Twin) -> None:
    body = b'{"name": "web", "template_id": "template"}'
    head = (
        f"POST /v2/stacks HTTP/1.1\r\nHost: twin\r\nX-Auth-Token: {ALICE}\r\nContent-Length: {len(body)}\r\n"
    )
    async with connection(twin) as (reader, writer):
        writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")


async def test_an_absolute_target_means_its_path(twin: Twin) -> None:
    assert (await raw_get(twin, "http://aos.example/v2/stacks?last=1")).startswith(b"HTTP/1.1 200 ")


async def test_every_answer_carries_the_headers_of_the_real_gateway(caller: Caller) -> None:
    record = await caller.create()
    answers = [await caller.get(path) for path in (record, "/v2/stacks", "/nowhere", "/v2/stacks/none")]
    for answer in answers:
        assert len(answer.headers["X-Request-Id"]) == 32
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Server"] == "api-gateway"
        assert "Date" in answer.headers
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


async def test_head_answers_like_get_without_a_body(caller: Caller) -> None:
    record = await caller.create()
    got, headed = await caller.get(record), await caller.call("HEAD", record)
    assert (headed.status, headed.body) == (200, b"")
    assert headed.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))


@pytest.mark.parametrize(
    ("accepted", "is_packed"), [("gzip, br", True), ("br, gzip;q=0", False), ("identity", False)]
)
async def test_a_record_is_compressed_if_gzip_is_accepted(
    caller: Caller, accepted: str, is_packed: bool
) -> None:
    record = await caller.create()
    plain = await caller.get(record, **{"Accept-Encoding": "identity"})
    answer = await caller.get(record, **{"Accept-Encoding": accepted})
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers.get("Content-Encoding") == ("gzip" if is_packed else None)
    assert (gzip.decompress(answer.body) if is_packed else answer.body) == plain.body


async def test_two_twins_with_the_same_seed_answer_with_the_same_bytes() -> None:
    seen = []
    for _ in range(2):
        twin = Twin(DEMO, seed=11)
        twin.world.clock.freeze()
        await twin.start(LOOPBACK)
        async with Caller(twin) as caller:
            record = await caller.create()
            answers = []
            for _ in range(10):
                twin.world.clock.advance(1)
                answers.append(await caller.get(record))
            seen.append([(answer.body, answer.headers["X-Request-Id"]) for answer in answers])
        await twin.close()
    assert seen[0] == seen[1]


async def test_a_status_fault_affects_count_responses_and_no_state(caller: Caller) -> None:
    record = await caller.create()
    stack = record.partition("/actions/")[0]
    await caller.fault(kind="status", status=503, shape="html", count=2)
    assert (await caller.call("DELETE", stack)).status == 503
    page = await caller.get(record)
    assert (page.status, page.headers["Content-Type"]) == (503, "text/html")
    assert page.body.startswith(b"<html>")
    assert phase_of(await caller.get(record)) == "Pending"


async def test_rate_limiting_comes_with_retry_after(caller: Caller) -> None:
    await caller.fault(kind="rate_limited", retry_after_s=3, count=1)
    answer = await caller.get("/v2/stacks")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.json["error_code"] == "APIGW.0308"
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]


async def test_a_throttle_refuses_each_user_beyond_its_rate_whatever_the_token(caller: Caller) -> None:
    await caller.fault(kind="throttle", limit=2)
    assert [(await caller.get("/v2/stacks")).status for _ in range(3)] == [200, 200, 429]
    assert (await caller.get("/v2/stacks", token=f"{ALICE}:2")).status == 429
    assert (await caller.get("/v2/stacks", token=BOB)).status == 200
    caller.twin.world.clock.advance(1)
    assert (await caller.get("/v2/stacks")).status == 200


async def test_a_profile_throttles_from_the_start_until_its_faults_are_cleared() -> None:
    twin = Twin(THROTTLED)
    twin.world.clock.freeze()
    await twin.start(LOOPBACK, LOOPBACK)
    async with Caller(twin) as caller:
        for _ in range(40):
            assert [(await caller.get("/v2/stacks")).status for _ in range(5)] == [200] * 5
            refused = await caller.get("/v2/stacks", token=BOB)
            assert (refused.status, "Retry-After" in refused.headers) == (429, False)
            assert "policy ip over ratelimit,limit:5,time:1 second" in refused.json["error_msg"]
            twin.world.clock.advance(1)
        refused = await caller.get("/v2/stacks", token=f"{ALICE}:2")
        assert "policy user over ratelimit,limit:200,time:5 minute" in refused.json["error_msg"]
        await caller.control("DELETE", "/faults")
        assert (await caller.get("/v2/stacks")).status == 200
        state = (await caller.control("POST", "/reset")).json
        assert [fault["per"] for fault in state["faults"]] == ["user", "ip", "ip"]
    await twin.close()


async def test_latency_delays_matching_answers(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="latency", delay_s=0.2, count=1, path="/v2/stacks/*/actions/*")
    began_s = time.monotonic()
    await caller.get("/v2/stacks")
    between_s = time.monotonic()
    await caller.get(record)
    assert time.monotonic() - between_s >= 0.2
    assert between_s - began_s < 0.2


async def test_a_truncated_body_is_framed_as_whole(caller: Caller) -> None:
    record = await caller.create()
    whole = (await caller.get(record)).body
    await caller.fault(kind="truncated", share=0.5, count=1)
    answer = await caller.get(record)
    assert answer.status == 200
    assert answer.body == whole[: len(whole) // 2]
    assert answer.headers["Content-Length"] == str(len(answer.body))
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


async def test_a_cut_ends_the_connection_in_the_middle_of_the_body(caller: Caller) -> None:
    record = await caller.create()
    whole = (await caller.get(record)).body
    await caller.fault(kind="cut", share=0.5, count=1)
    got = await raw_get(caller.twin, record)
    head, _, body = got.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]
    await caller.fault(kind="cut", count=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await caller.get(record)
    assert (await caller.get(record)).body == whole


async def test_a_cut_can_come_before_any_answer(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="cut", before_head=True, count=1)
    assert await raw_get(caller.twin, record) == b""
    assert (await caller.get(record)).status == 200


async def test_a_write_that_is_cut_has_taken_effect_all_the_same(caller: Caller) -> None:
    stack = (await caller.create()).partition("/actions/")[0]
    await caller.fault(kind="cut", before_head=True, count=1, method="DELETE")
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.call("DELETE", stack)
    assert caller.twin.world.received["delete_stack"] == 1
    caller.twin.world.clock.advance(10)
    assert (await caller.get(stack)).status == 404


async def test_a_slow_body_comes_at_its_rate_and_whole(caller: Caller) -> None:
    record = await caller.create()
    whole = (await caller.get(record)).body
    await caller.fault(kind="slow_body", bytes_per_s=len(whole) * 4, count=1)
    began_s = time.monotonic()
    assert (await caller.get(record)).body == whole
    assert 0.2 < time.monotonic() - began_s < 2


async def test_a_caller_may_leave_a_slow_body(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="slow_body", bytes_per_s=1, count=1)
    async with connection(caller.twin) as (reader, writer):
        writer.write(f"GET {record} HTTP/1.1\r\nHost: twin\r\nX-Auth-Token: {ALICE}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n{")
    assert phase_of(await caller.get(record)) == "Pending"


async def test_a_header_of_the_origin_can_be_added(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="header", value="private, max-age=5", count=1)
    await caller.fault(kind="header", name="Set-Cookie", value="a=b", count=1)
    answer = await caller.get(record)
    assert answer.headers["Cache-Control"] == "private, max-age=5"
    assert answer.headers["Set-Cookie"] == "a=b"
    assert "Cache-Control" not in (await caller.get(record)).headers


async def test_waiting_faults_can_be_seen_and_cleared(caller: Caller) -> None:
    await caller.fault(kind="status", status=500)
    (shown,) = (await caller.control("GET", "/state")).json["faults"]
    assert (shown["kind"], shown["status"]) == ("status", 500)
    assert (await caller.control("DELETE", "/faults")).status == 200
    assert (await caller.get("/v2/stacks")).status == 200


async def test_the_state_counts_requests_by_route_and_status(caller: Caller) -> None:
    record = await caller.create()
    await caller.get(record)
    await caller.get(record, token=BOB)
    answer = await caller.control("GET", "/state")
    state = answer.json
    assert state["received"] == {"create_stack": 1, "get_execution": 2, "list_executions": 1}
    assert state["answered"]["get_execution"] == {"200": 1, "404": 1}
    assert (state["stacks"], state["executions"], state["under_way"]) == (1, 1, 1)
    assert (state["profile"], state["seed"], state["frozen"]) == ("demo", 7, True)
    assert b"alice" not in answer.body


async def test_the_clock_jumps_and_can_stand_still(caller: Caller) -> None:
    record = await caller.create()
    moved = await caller.control("POST", "/clock", {"advance_s": 3})
    assert moved.json == {"now": "2024-01-01T00:00:03.000000Z", "frozen": True} | {"now": moved.json["now"]}
    assert phase_of(await caller.get(record)) == "Running"
    thawed = await caller.control("POST", "/clock", {"frozen": False, "advance_s": 10})
    assert thawed.json["frozen"] is False
    assert thawed.json["now"] > moved.json["now"]
    assert phase_of(await caller.get(record)) == "Succeeded"


async def test_the_next_outcomes_can_be_forced(caller: Caller) -> None:
    forced = await caller.control("POST", "/outcome", {"outcome": "CancelFailed", "duration_s": 2})
    assert forced.json == {"forced_outcomes": 1}
    first, second = await caller.create("one"), await caller.create("two")
    caller.twin.world.clock.advance(10)
    assert phase_of(await caller.get(first)) == "CancelFailed"
    assert phase_of(await caller.get(second)) == "Succeeded"


async def test_a_reset_brings_back_the_beginning(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="status", status=500, path="/nowhere")
    await caller.control("POST", "/revoke", {"token": BOB})
    state = (await caller.control("POST", "/reset")).json
    assert (state["stacks"], state["faults"], state["revoked_tokens"], state["received"]) == (0, [], 0, {})
    assert (await caller.get(record)).status == 404
    assert (await caller.create()) == record


async def test_records_are_listed_for_load_generators() -> None:
    twin = Twin(LOAD, seed=1)
    await twin.start(LOOPBACK, LOOPBACK)
    async with Caller(twin) as caller:
        rows = (await caller.control("GET", "/executions?limit=25")).json
        assert len(rows) == 25
        for row in rows:
            answer = await caller.get(
                f"/v2/stacks/{row['stack_id']}/actions/{row['action_id']}", token="load:any"
            )
            assert phase_of(answer) == row["phase"]
            assert b"\n" not in answer.body
        assert (await caller.control("GET", "/executions?limit=x")).status == 400
    await twin.close()


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/faults", {"kind": "storm"}, "latency, status, rate_limited"),
        ("/faults", {"kind": "latency"}, "delay_s"),
        ("/faults", b"{", "truncated"),
        ("/clock", {"advance_s": -1}, "$.advance_s"),
        ("/clock", {"advance": 1}, "advance"),
        ("/revoke", {}, "token"),
        ("/outcome", {"outcome": "Running"}, "Succeeded, Failed, Cancelled"),
        ("/outcome", {"count": 10_001}, "$.count"),
    ],
)
async def test_a_wrong_control_call_gets_one_line(caller: Caller, path: str, body: Any, named: str) -> None:
    answer = await caller.control("POST", path, body)
    assert answer.status == 400
    assert named in answer.json["error"]
    assert "\n" not in answer.json["error"]


async def test_a_control_body_beyond_the_limit_is_refused(caller: Caller) -> None:
    assert (await caller.control("POST", "/faults", b" " * 65_537)).status == 413


async def test_an_unknown_control_call_lists_the_known_ones(caller: Caller) -> None:
    answer = await caller.control("GET", "/nothing")
    assert answer.status == 404
    assert "POST /faults" in answer.json["error"]


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://127.0.0.1"}])
async def test_web_pages_cannot_use_the_control_address(caller: Caller, headers: dict[str, str]) -> None:
    assert (await caller.control("POST", "/reset", **headers)).status == 403


async def test_too_many_faults_are_refused(caller: Caller) -> None:
    for _ in range(MAX_FAULTS):
        await caller.fault(kind="status", status=500, path="/nowhere")
    answer = await caller.control("POST", "/faults", {"kind": "cut"})
    assert answer.status == 409


@pytest.mark.parametrize("text", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
async def test_the_control_address_must_be_this_machines_own(text: str) -> None:
    with pytest.raises(TwinError, match="can be reached from other machines"):
        await Twin(DEMO).start(LOOPBACK, parse_address(text))


async def test_the_error_for_a_taken_port_has_its_address_and_nothing_stays_open(twin: Twin) -> None:
    taken = parse_address(twin.url.removeprefix("http://"))
    with pytest.raises(TwinError, match=f"cannot listen on {taken}: Address already in use") as refused:
        await Twin(DEMO).start(LOOPBACK, taken)
    assert "\n" not in str(refused.value)


async def test_the_twin_listens_on_a_unix_socket_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "twin.sock"
    twin = Twin(DEMO)
    await twin.start(UnixAddress(path=str(path)))
    assert twin.url == f"unix:{path}"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://twin/v2/stacks", headers={"X-Auth-Token": ALICE}) as response,
    ):
        assert await response.json() == []
    await twin.close()
    assert not path.exists()


async def test_closing_does_not_wait_for_slow_answers(caller: Caller) -> None:
    record = await caller.create()
    await caller.fault(kind="latency", delay_s=60)
    waiting = asyncio.create_task(caller.get(record))
    while not caller.twin.world.received["get_execution"]:
        await caller.control("GET", "/state")
    began_s = time.monotonic()
    await caller.twin.close()
    assert time.monotonic() - began_s < 1
    with pytest.raises(aiohttp.ClientConnectionError):
        await waiting


async def test_the_limits_of_the_profile_hold_over_the_api(twin: Twin) -> None:
    small: Profile = msgspec.structs.replace(DEMO, max_stacks=1)
    other = Twin(small)
    await other.start(LOOPBACK)
    async with Caller(other) as caller:
        await caller.create("one")
        refused = await caller.call("POST", "/v2/stacks", {"name": "two", "template_id": "t"})
        assert (refused.status, refused.json["extend"]) == (
            400,
            "The number of stacks has reached its limit.",
        )
    await other.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_says_where_it_is_ready_and_ends_at_once_on_a_signal(
    number: signal.Signals,
) -> None:
    process = await start_command()
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    control = (await process.stdout.readline()).decode()
    assert ready.startswith("twin ready on http://127.0.0.1:")
    assert ready.endswith("(profile demo, seed 5)\n")
    assert control.startswith("twin control ready on http://127.0.0.1:")
    began_s = time.monotonic()
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert time.monotonic() - began_s < 2


def test_the_command_refuses_an_unknown_profile_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(listen=LOOPBACK, control=None, profile="fast", seed=1) == 2
    assert capsys.readouterr().err == (
        "aos-gateway twin: unknown twin profile 'fast'; choose one of demo, load, realistic, throttled\n"
    )


def test_the_command_refuses_a_public_control_address_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    control = TcpAddress(host="0.0.0.0", port=0)
    assert run(listen=LOOPBACK, control=control, profile="demo", seed=1) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "0.0.0.0:0" in captured.err


COMMAND = """
import sys
from gateway.config.address import parse_address as address
from gateway.twin.server import run

sys.exit(run(listen=address("127.0.0.1:0"), control=address("127.0.0.1:0"), profile="demo", seed=5))
"""


async def start_command() -> asyncio.subprocess.Process:
    """Run `server.run` in a process of its own, as the command does."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def connection(twin: Twin) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection to the API, closed at the end; nothing on it takes longer than five seconds."""
    address = parse_address(twin.url.removeprefix("http://"))
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(5):
            yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def raw_get(twin: Twin, target: str) -> bytes:
    """GET over a plain connection and return every byte until it ends."""
    head = f"GET {target} HTTP/1.1\r\nHost: twin\r\nX-Auth-Token: {ALICE}\r\nConnection: close\r\n\r\n"
    async with connection(twin) as (reader, writer):
        writer.write(head.encode())
        return await reader.read()
