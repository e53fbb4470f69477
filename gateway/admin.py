"""The admin side: health, metrics, the configuration, purging; a listener of its own."""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import re
import socket
import uuid
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.address import is_loopback_host
from gateway.secret import Secret

_LOG = logging.getLogger("gateway.admin")
_MAX_BODY_BYTES: Final = 4_096
_BODY_TIMEOUT_S: Final = 5.0
_RETRY_AFTER_S: Final = 1
_REALM: Final = "aos-gateway admin"
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{0,5})?")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Operations(Protocol):
    """What the admin side asks of the running gateway."""

    def ready(self) -> bool:
        """Tell whether requests are accepted; false from the moment draining begins."""

    def health(self) -> dict[str, object]:
        """Return what `/readyz` reports besides readiness, as plain JSON data without secrets."""

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the metrics and their Content-Type."""

    def masked_config(self) -> dict[str, object]:
        """Return the effective configuration as plain JSON data, secrets masked."""

    async def purge(self, stack_id: str) -> bool:
        """Make a stack's stored entries unusable.

        Args:
            stack_id: 1 to 64 characters.

        Returns:
            True when it is done everywhere; False when Redis could not be told yet.
        """


class _No(Enum):
    """Why a request is refused: status, last four digits of the code, title, detail."""

    MALFORMED = (400, "0901", "Bad Request", "The request is malformed.")
    BODY = (400, "0902", "Bad Request", 'The body has to be {"stack_id": "..."} with 1 to 64 characters.')
    UNAUTHORIZED = (401, "0901", "Unauthorized", "This path needs the admin token.")
    NOT_FOUND = (404, "0901", "Not Found", "There is nothing at this path.")
    METHOD = (405, "0901", "Method Not Allowed", "This path does not know the method.")
    SLOW = (408, "0901", "Request Timeout", "The body did not arrive in time.")
    TOO_LARGE = (413, "0901", "Content Too Large", "The body is too large.")
    MEDIA_TYPE = (415, "0901", "Unsupported Media Type", "The body has to be plain application/json.")
    FOREIGN_HOST = (
        421,
        "0901",
        "Misdirected Request",
        "The Host is neither a loopback name nor an IP address nor in server.admin_hosts.",
    )
    FAILED = (500, "0901", "Internal Server Error", "The gateway's log tells more about this request id.")
    NOT_TOLD = (
        503,
        "0901",
        "Service Unavailable",
        "Redis could not be told yet; forgotten here, tried again.",
    )


class _RefusedError(Exception):
    """Ends a request with a problem; `why` is its row."""

    def __init__(self, why: _No) -> None:
        super().__init__(why.name)
        self.why = why


class _Purge(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /purge`."""

    stack_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


_PURGE_DECODER: Final = msgspec.json.Decoder(_Purge)
_BY_STATUS: Final = {404: _No.NOT_FOUND, 405: _No.METHOD, 413: _No.TOO_LARGE}


def build_admin(operations: Operations, *, token: Secret, hosts: Sequence[str]) -> web.Application:
    """Make the admin application.

    Args:
        operations: the running gateway.
        token: `server.admin_token`; empty: only loopback and Unix peers reach the protected paths.
        hosts: `server.admin_hosts`, lower-case names without port.
    """
    admin = _Admin(operations, token, frozenset(host.removesuffix(".") for host in hosts))
    app = web.Application(middlewares=[admin.guard], client_max_size=_MAX_BODY_BYTES)
    app.on_response_prepare.append(_finish_head)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/readyz", admin.readyz)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/config", admin.config)
    app.router.add_post("/purge", admin.purge)
    return app


class _Admin:
    """The handlers of the admin application."""

    def __init__(self, operations: Operations, token: Secret, hosts: frozenset[str]) -> None:
        self._operations = operations
        self._token = token
        self._hosts = hosts

    @property
    def guard(self) -> Middleware:
        """The middleware that judges the Host first and gives every error its shape."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                self._check_host(request)
                return await handler(request)
            except _RefusedError as exc:
                return _problem(exc.why)
            except web.HTTPException as exc:
                return _problem(_BY_STATUS.get(exc.status, _No.MALFORMED), exc.headers.get(hdrs.ALLOW))
            except Exception:
                response = _problem(_No.FAILED)
                _LOG.exception("admin request %s failed", response.headers["X-Request-Id"])
                return response

        return guard

    async def healthz(self, _request: web.Request) -> web.StreamResponse:
        """Answer as long as the process lives."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.StreamResponse:
        """Answer 200 while requests are accepted, else 503."""
        is_ready = self._operations.ready()
        return _json({"ready": is_ready, **self._operations.health()}, status=200 if is_ready else 503)

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """Answer the metrics."""
        body, content_type = self._operations.metrics_text()
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def config(self, request: web.Request) -> web.StreamResponse:
        """Answer the effective configuration, masked."""
        self._authorize(request)
        return _json(self._operations.masked_config())

    async def purge(self, request: web.Request) -> web.StreamResponse:
        """Forget a stack."""
        self._authorize(request)
        # A page of another origin can't send this type without asking first, and that is never granted.
        if request.content_type != "application/json" or hdrs.CONTENT_ENCODING in request.headers:
            raise _RefusedError(_No.MEDIA_TYPE)
        if not await self._operations.purge(await _stack_id(request)):
            return _problem(_No.NOT_TOLD)
        return _json({"forgotten": True})

    def _check_host(self, request: web.Request) -> None:
        """Refuse a Host that a foreign page may have been made to point at this address (DNS rebinding)."""
        values = request.headers.getall(hdrs.HOST, [])
        # In an absolute-form target the authority would count instead of the Host (RFC 9112 section 3.2.2).
        if len(values) > 1 or not request.raw_path.startswith("/"):
            raise _RefusedError(_No.MALFORMED)
        if not values:
            if request.version >= (1, 1):
                raise _RefusedError(_No.MALFORMED)
            return
        match = _HOST.fullmatch(values[0])
        if match is None or not self._is_own_host(match["name"].lower().removesuffix(".")):
            raise _RefusedError(_No.FOREIGN_HOST)

    def _is_own_host(self, name: str) -> bool:
        if is_loopback_host(name) or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _authorize(self, request: web.Request) -> None:
        if _is_local(request.transport):
            return
        wanted = self._token.reveal().encode()
        given = _presented(request.headers.getall(hdrs.AUTHORIZATION, []))
        if not wanted or given is None or not hmac.compare_digest(given, wanted):
            raise _RefusedError(_No.UNAUTHORIZED)


def _is_local(transport: asyncio.Transport | None) -> bool:
    """Tell whether the peer is on this machine; forwarded fields say nothing here, anybody can send them."""
    if transport is None:
        return False
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == getattr(socket, "AF_UNIX", None):
        return True
    peer = transport.get_extra_info("peername")
    return isinstance(peer, tuple) and is_loopback_host(str(peer[0]))


def _presented(values: Sequence[str]) -> bytes | None:
    """Return the token that was sent as Bearer or as the password of Basic; None when there is none."""
    if len(values) != 1:
        return None
    scheme, _, credentials = values[0].partition(" ")
    raw = credentials.strip().encode("utf-8", "surrogateescape")
    match scheme.lower():
        case "bearer":
            return raw
        case "basic":
            try:
                _, colon, password = base64.b64decode(raw, validate=True).partition(b":")
            except binascii.Error:
                return None
            return password if colon else None
        case _:
            return None


async def _stack_id(request: web.Request) -> str:
    if (request.content_length or 0) > _MAX_BODY_BYTES:
        raise _RefusedError(_No.TOO_LARGE)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError as exc:
        raise _RefusedError(_No.SLOW) from exc
    except web.RequestPayloadError as exc:
        raise _RefusedError(_No.MALFORMED) from exc
    try:
        return _PURGE_DECODER.decode(body).stack_id
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise _RefusedError(_No.BODY) from exc


def _json(data: dict[str, object], status: int = 200) -> web.Response:
    body = msgspec.json.encode(data, enc_hook=str) + b"\n"
    return web.Response(body=body, status=status, headers={hdrs.CONTENT_TYPE: "application/json"})


def _problem(why: _No, allow: str | None = None) -> web.Response:
    """Make an answer that both a problem-aware (RFC 9457) and an AOS client can read."""
    status, digits, title, detail = why.value
    request_id = uuid.uuid4()
    response = _json(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": request_id.urn,
            "code": f"GATEWAY.{status}{digits}",
            "message": detail,
            "extend": "",
            "showdetail": False,
        },
        status,
    )
    response.headers[hdrs.CONTENT_TYPE] = "application/problem+json"
    response.headers["X-Request-Id"] = request_id.hex
    match why:
        case _No.UNAUTHORIZED:
            response.headers.add(hdrs.WWW_AUTHENTICATE, f'Bearer realm="{_REALM}"')
            response.headers.add(hdrs.WWW_AUTHENTICATE, f'Basic realm="{_REALM}", charset="UTF-8"')
        case _No.METHOD if allow is not None:
            response.headers[hdrs.ALLOW] = allow
        case _No.NOT_TOLD:
            response.headers[hdrs.RETRY_AFTER] = str(_RETRY_AFTER_S)
        case _No.SLOW:
            response.force_close()
        case _:
            pass
    return response


async def _finish_head(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    # aiohttp would tell its version.
    response.headers.popall(hdrs.SERVER, None)
