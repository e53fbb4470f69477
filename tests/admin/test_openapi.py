"""config/openapi.yaml is a valid description, and the gateway conforms to it."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openapi_spec_validator
import pytest
import yaml
from jsonschema import Draft202012Validator

from gateway import __version__
from gateway.admin.app import _Admin
from gateway.admin.server import AdminServer
from gateway.config.address import parse_address
from gateway.core.caching.cache_status import Reason
from gateway.runtime.listeners import open_sockets
from tests.references import ROOT
from tests.testbed.aos import TARGET, Answer, ScriptedAos, never, payload, record
from tests.testbed.client import Headers, fetch
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.response import RawResponse

_DESCRIPTION: dict[str, Any] = yaml.safe_load((ROOT / "config" / "openapi.yaml").read_text("utf-8"))
_EXECUTION = "/v2/stacks/{stack_id}/actions/{action_id}"


@dataclass(frozen=True)
class Both:
    """A gateway with both its addresses."""

    gateway: RunningGateway
    admin: str


@pytest.fixture
async def both(aos: ScriptedAos) -> AsyncIterator[Both]:
    aos.on("GET", TARGET, Answer(body=record()))
    async with running(aos.url) as gateway:
        admin = AdminServer(gateway.app)
        try:
            await admin.start(await open_sockets(parse_address("127.0.0.1:0")))
            yield Both(gateway, str(admin.sockets.address))
        finally:
            await admin.close()


def resolved(node: Any) -> Any:
    """A part of the description with all its references filled in."""
    if isinstance(node, dict):
        if "$ref" in node:
            found: Any = _DESCRIPTION
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return resolved(found)
        return {key: resolved(value) for key, value in node.items()}
    return [resolved(item) for item in node] if isinstance(node, list) else node


def check(answer: RawResponse, path: str, method: str = "GET") -> None:
    """Compare a response with the description of its path, method and status."""
    responses = _DESCRIPTION["paths"][path][method.lower()]["responses"]
    described = resolved(responses.get(str(answer.status), responses["default"]))
    for name, header in described.get("headers", {}).items():
        value = answer.get(name)
        assert value is not None or not header.get("required"), name
        if value is not None:
            assert re.search(header["schema"].get("pattern", ""), value.decode()), (name, value)
    content = described.get("content")
    if content is None or method == "HEAD" or answer.status == 304:
        return
    kind = (answer.get("Content-Type") or b"").decode().partition(";")[0]
    if path == _EXECUTION and answer.status == 200:
        # A record's own type is AOS's.
        [kind] = content
    reported = json.loads(answer.body) if "json" in kind else answer.body.decode()
    Draft202012Validator(content[kind]["schema"]).validate(reported)


def test_the_description_is_valid_and_of_this_version() -> None:
    openapi_spec_validator.validate(_DESCRIPTION)
    assert _DESCRIPTION["openapi"].startswith("3.1.")
    assert _DESCRIPTION["info"]["version"] == __version__


def test_every_reason_is_written_down() -> None:
    header = _DESCRIPTION["components"]["headers"]["Cache-Status"]
    assert header["x-details"] == [reason.value for reason in Reason]


async def test_every_admin_path_is_written_down_with_its_methods(both: Both) -> None:
    paths = _Admin(both.gateway.app)._paths
    written = {path: item for path, item in _DESCRIPTION["paths"].items() if path != _EXECUTION}
    assert set(written) == set(paths)
    for path, (methods, _) in paths.items():
        assert {method.upper() for method in written[path]} == set(methods)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/config"])
async def test_admin_responses_are_as_described(both: Both, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await fetch(both.admin, path, method=method)
        assert answer.status == 200
        check(answer, path, method)
    refused = await fetch(both.admin, path, headers=[("Host", "attacker.example")])
    assert refused.status == 421
    check(refused, path)


async def test_metrics_in_the_other_format_are_as_described(both: Both) -> None:
    answer = await fetch(both.admin, "/metrics", headers=[("Accept", "application/openmetrics-text")])
    assert (answer.get("Content-Type") or b"").startswith(b"application/openmetrics-text")
    check(answer, "/metrics")


async def test_readiness_while_draining_is_as_described(both: Both) -> None:
    both.gateway.app.begin_drain()
    answer = await fetch(both.admin, "/readyz")
    assert answer.status == 503
    check(answer, "/readyz")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"stack_id": "s"}', 200),
        ("application/json", b'{"stack_id": ""}', 400),
        ("application/json", b'{"stack_id": "*"}', 400),
        ("text/plain", b'{"stack_id": "s"}', 415),
    ],
)
async def test_purging_is_as_described(both: Both, kind: str, body: bytes, status: int) -> None:
    answer = await fetch(both.admin, "/purge", method="POST", headers=[("Content-Type", kind)], body=body)
    assert answer.status == status
    check(answer, "/purge", "POST")


async def test_records_are_as_described(both: Both) -> None:
    address = both.gateway.address
    statuses = []
    asked: list[tuple[str, Headers]] = [
        ("GET", []),
        ("GET", []),
        ("HEAD", []),
        ("GET", [("If-None-Match", "*")]),
        ("GET", [("Cache-Control", "no-store")]),
    ]
    for method, headers in asked:
        answer = await fetch(address, TARGET, method=method, headers=headers, token="a")
        statuses.append(answer.status)
        check(answer, _EXECUTION, method)
    assert statuses == [200, 200, 200, 304, 200]


async def test_records_of_a_running_execution_are_as_described(aos: ScriptedAos) -> None:
    aos.on("GET", TARGET, Answer(body=record("Running")))
    async with running(aos.url, cache__ttl_running_s=30) as gateway:

        async def ask(*headers: tuple[str, str]) -> RawResponse:
            answer = await fetch(gateway.address, TARGET, headers=list(headers), token="a")
            check(answer, _EXECUTION)
            return answer

        await ask()
        hit = await ask()
        waited = await ask(("Prefer", "wait=1"))
        etag = (hit.get("ETag") or b"").decode()
        unchanged = await ask(("Prefer", "wait=1"), ("If-None-Match", etag))
    assert re.search(rb"hit; ttl=2\d; detail=running$", hit.get("Cache-Status") or b"")
    assert (waited.get("Cache-Status") or b"").endswith(b"detail=waited")
    assert (waited.status, unchanged.status) == (200, 304)
    for answer in (waited, unchanged):
        assert (answer.get("Preference-Applied"), answer.get("Vary")) == (b"wait=1", b"Prefer")


async def test_errors_of_the_gateway_are_as_described(aos: ScriptedAos) -> None:
    aos.on("GET", TARGET, never)
    async with running(aos.url, upstream__read_timeout_s=0.05) as gateway:
        late = await fetch(gateway.address, TARGET, token="a")
        not_cached = await fetch(
            gateway.address, TARGET, token="a", headers=[("Cache-Control", "only-if-cached")]
        )
    async with running("http://127.0.0.1:1") as gateway:
        unreachable = await fetch(gateway.address, TARGET, token="a")
    json = [("Content-Type", "application/json")]
    aos.on("GET", TARGET, Answer(429, headers=json, body=payload("error__apigw-0308")))
    async with running(aos.url) as gateway:
        throttled = [await fetch(gateway.address, TARGET, token=token) for token in ("a", "a", "b")]
    assert [answer.get("Proxy-Status") is None for answer in throttled] == [True, True, False]
    answers = (late, not_cached, unreachable, *throttled)
    assert [answer.status for answer in answers] == [504, 504, 502, 429, 429, 429]
    for answer in answers:
        check(answer, _EXECUTION)
