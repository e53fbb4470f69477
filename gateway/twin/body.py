"""Request bodies, bounded."""

from aiohttp import web


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes | None:
    """Read a request's body.

    Args:
        request: one whose head has come.
        limit_bytes: the largest body to take.

    Returns:
        None when it is larger; it is then not read to its end, so that the connection has to be closed.
    """
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
