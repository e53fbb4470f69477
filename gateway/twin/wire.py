"""On the wire: bounded request bodies, and replies with the effects of faults."""

import asyncio
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from gateway.twin.fault_book import Effects
from gateway.twin.replies import Reply

# What the API gateway in front of AOS adds to every response.
_COMMON_HEADERS: Final = (
    ("Server", "api-gateway"),
    ("Strict-Transport-Security", "max-age=31536000; includeSubdomains;"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Xss-Protection", "1; mode=block;"),
)
# A slow body is sent in pieces this far apart.
_TICK_S: Final = 0.02


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes | None:
    """Read a request's body; None when it is larger, so that the connection has to be closed."""
    if not request.can_read_body:
        return b""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    parts = []
    left = limit_bytes
    async for part in request.content.iter_any():
        left -= len(part)
        if left < 0:
            return None
        parts.append(part)
    return b"".join(parts)


async def deliver(
    request: web.BaseRequest, reply: Reply, effects: Effects, request_id: str
) -> web.StreamResponse:
    """Return the response for a reply; where a fault needs it, its body has been sent already."""
    if effects.cut_before_head:
        return _cut(request)
    body = reply.body[: _share(reply.body, effects.keep_share)]
    own = (("Content-Type", reply.content_type), ("X-Request-Id", request_id))
    headers = CIMultiDict((*_COMMON_HEADERS, *own, *reply.headers, *effects.headers))
    is_plain = effects.cut_share is None and effects.bytes_per_s is None
    if is_plain or request.method == "HEAD":
        return web.Response(status=reply.status, headers=headers, body=body)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    try:
        await _send(response, body[: _share(body, effects.cut_share)], effects.bytes_per_s)
    except ConnectionError:
        # The caller has closed the connection.
        return response
    return response if effects.cut_share is None else _cut(request, response)


def _share(body: bytes, share: float | None) -> int:
    return len(body) if share is None else int(len(body) * share)


async def _send(response: web.StreamResponse, body: bytes, bytes_per_s: int | None) -> None:
    if bytes_per_s is None:
        await response.write(body)
        return
    loop = asyncio.get_running_loop()
    started_s, sent = loop.time(), 0
    while sent < len(body):
        due = min(len(body), int((loop.time() - started_s) * bytes_per_s) + 1)
        await response.write(body[sent:due])
        sent = due
        if sent < len(body):
            await asyncio.sleep(max(_TICK_S, 1 / bytes_per_s))


def _cut(request: web.BaseRequest, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Close the connection after what has been written."""
    if request.transport is not None:
        request.transport.close()
    return response or web.Response()
