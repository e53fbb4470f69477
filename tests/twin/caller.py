"""A caller of the twin's API and of its control address."""

import io
import json
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy

from gateway.twin.server import Twin

ALICE = "project-a:alice"


class Answer:
    """An answer with its whole body."""

    def __init__(self, status: int, headers: CIMultiDictProxy[str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Caller:
    """Speaks to one twin over real sockets; bodies are shown as they came, and no request is repeated."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        )
        self._session._retry_connection = False

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = ALICE, **headers: str
    ) -> Answer:
        """Call the API; `body` is bytes or what to send as JSON."""
        if token is not None:
            headers["X-Auth-Token"] = token
        return await self._send(method, self.twin.url + path, body, headers)

    async def get(self, path: str, *, token: str | None = ALICE, **headers: str) -> Answer:
        """GET from the API."""
        return await self.call("GET", path, token=token, **headers)

    async def control(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call the control address."""
        assert self.twin.control_url is not None
        return await self._send(method, self.twin.control_url + path, body, headers)

    async def fault(self, **fault: Any) -> None:
        """Let a fault wait."""
        assert (await self.control("POST", "/faults", fault)).status == 200

    async def create(self, name: str = "web", **parameters: Any) -> str:
        """Create a stack and start its create execution; returns the path of the record."""
        wanted = {"name": name, "template_id": "template", "action_parameters": {"auto_create": True}}
        answer = await self.call("POST", "/v2/stacks", {**wanted, **parameters})
        assert answer.status == 201
        stack = f"/v2/stacks/{answer.json['guid']}"
        (last,) = (await self.get(f"{stack}/actions?last=true")).json
        return f"{stack}/actions/{last['metadata']['name']}"

    async def _send(self, method: str, url: str, body: Any, headers: dict[str, str]) -> Answer:
        encoded = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        data = None if encoded is None else io.BytesIO(encoded)
        async with self._session.request(method, url, data=data, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())


def phase_of(answer: Answer) -> str:
    """The phase of an execution record."""
    return str(answer.json["status"]["objectStatus"]["phase"])
