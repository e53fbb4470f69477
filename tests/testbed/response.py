"""A response as a raw client received it."""

import json
from dataclasses import dataclass
from typing import Any

from .wire import Body, Field, Message


@dataclass(frozen=True)
class RawResponse(Message):
    """A response as it came.

    Attributes:
        raw_head: the exact bytes from the status line to the blank line, with it.
        version: `HTTP/1.1` as sent.
        status: the status code.
        reason: the reason phrase as sent.
        headers: fields in order, names in their case, values without outer blanks.
        framing: the body with its chunks and trailers.
        interim: the 1xx responses that came before.
    """

    raw_head: bytes
    version: bytes
    status: int
    reason: bytes
    headers: list[Field]
    framing: Body
    interim: tuple["RawResponse", ...] = ()

    @property
    def raw_body(self) -> bytes:
        """The content as it came, with chunk framing and trailers."""
        return bytes(self.framing.raw)

    def json(self) -> Any:
        """The content decoded as JSON."""
        return json.loads(self.body)


def assert_refused(response: RawResponse, status: int) -> None:
    """The gateway refused a request: a problem (RFC 9457) that ends the connection and names no software."""
    assert (response.version, response.status) == (b"HTTP/1.1", status)
    assert response.get("content-type") == b"application/problem+json"
    assert response.json()["status"] == status
    assert response.get("date") is not None
    assert response.get("connection") == b"close"
    text = (response.raw_head + response.body).lower()
    for word in (b"aiohttp", b"python", b"traceback", b"server:"):
        assert word not in text


class TruncatedResponse(Exception):
    """The connection ended before the response did.

    Attributes:
        response: what had come; its body is incomplete.
    """

    def __init__(self, response: RawResponse) -> None:
        super().__init__(f"{response.status} broke off after {len(response.framing.data)} bytes of body")
        self.response = response
