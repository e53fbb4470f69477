"""The admin application: health, metrics, configuration, purge and the page."""

import asyncio
import base64
import binascii
import gzip
import hmac
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.admin.errors import SECURITY_FIELDS, AdminError, AdminProblem, answer, of_status
from gateway.config.address import is_loopback_host
from gateway.config.load import masked
from gateway.core.aos.route import is_id
from gateway.core.http.fields import accepts_gzip
from gateway.core.http.host import OwnHosts
from gateway.operations import Operations
from gateway.page.page import Page
from gateway.telemetry.metrics_text import render

_LOG = logging.getLogger("gateway.admin")
_MAX_BODY_BYTES: Final = 4_096
_BODY_TIMEOUT_S: Final = 5.0
# A tenth of the size in half a millisecond; higher levels gain little.
_GZIP_LEVEL: Final = 1
_READING: Final = frozenset({"GET", "HEAD"})
# For everybody; all other paths, the page too, show the configuration and more.
_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_VERSIONS: Final = frozenset({(1, 0), (1, 1)})


class _Purge(msgspec.Struct, forbid_unknown_fields=True):
    stack_id: str


_PURGE_DECODER: Final = msgspec.json.Decoder(_Purge)


def build_admin(operations: Operations) -> web.Application:
    """Make the admin application, for the configuration of this moment."""
    admin = _Admin(operations)
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.cleanup_ctx.append(admin.page.sampling)
    app.on_response_prepare.append(_finish_head)
    # One route: aiohttp's own errors have another format and echo the request.
    app.router.add_route("*", "/{path:.*}", admin.handle, expect_handler=_expect)
    return app


class _Admin:
    def __init__(self, operations: Operations) -> None:
        server = operations.config.server
        self._operations = operations
        # If empty, only loopback and Unix peers reach the protected paths.
        self._token = server.admin_token
        self._hosts = OwnHosts.of(server.admin_hosts)
        self.page = Page(operations)

        self._paths: Final[Mapping[str, tuple[frozenset[str], Handler]]] = {
            "/healthz": (_READING, self._healthz),
            "/readyz": (_READING, self._readyz),
            "/metrics": (_READING, self._metrics),
            "/config": (_READING, self._config),
            "/purge": (frozenset({"POST"}), self._purge),
        }
        # For the page alone: not part of the documented interface.
        self._shown: Final = {path: (_READING, handler) for path, handler in self.page.paths.items()}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request: Host first; all errors have the same format."""
        try:
            self._check_host(request)
            known = self._paths.get(request.path) or self._shown.get(request.path)
            if known is None:
                raise AdminError(AdminProblem.PATH)
            methods, handler = known
            if request.method not in methods:
                return answer(AdminProblem.METHOD, ", ".join(sorted(methods)))
            if request.path not in _OPEN:
                self._authorize(request)
            return await handler(request)
        except AdminError as exc:
            return answer(exc.why, accept=request.headers.get(hdrs.ACCEPT, ""))
        except web.HTTPException as exc:
            return answer(of_status(exc.status))
        except Exception:
            response = answer(AdminProblem.FAILED)
            _LOG.exception("admin request %s failed", response.headers["X-Request-Id"])
            return response

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        """200 as long as the process lives."""
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        """200 while requests are accepted, else 503."""
        await self._operations.refresh()
        is_ready = self._operations.ready()
        return _json({"ready": is_ready, **self._operations.health()}, status=200 if is_ready else 503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """The metrics in the negotiated format and content coding."""
        await self._operations.refresh()
        accept = ", ".join(request.headers.getall(hdrs.ACCEPT, []))
        body, content_type = render(self._operations.metrics_snapshot(), accept)
        fields = {hdrs.CONTENT_TYPE: content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if accepts_gzip(request.raw_headers):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            fields[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, headers=fields)

    async def _config(self, _request: web.Request) -> web.StreamResponse:
        """The effective configuration, masked."""
        return _json(masked(self._operations.config))

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        # Another origin needs a CORS preflight for this type, which is never granted.
        if request.content_type != "application/json" or hdrs.CONTENT_ENCODING in request.headers:
            raise AdminError(AdminProblem.MEDIA_TYPE)
        if not await self._operations.purge(await _stack_id(request)):
            return answer(AdminProblem.PENDING)
        return _json({"forgotten": True})

    def _check_host(self, request: web.Request) -> None:
        """Reject a Host that DNS rebinding may have pointed at this address."""
        values = request.headers.getall(hdrs.HOST, [])
        # The authority of an absolute-form target would replace the Host (RFC 9112 section 3.2.2).
        is_plain = request.version in _VERSIONS and request.raw_path.startswith("/")
        if len(values) > 1 or not is_plain:
            raise AdminError(AdminProblem.MALFORMED)
        if not values:
            if request.version >= (1, 1):
                raise AdminError(AdminProblem.MALFORMED)
            return
        if not self._hosts.has(values[0].encode("utf-8", "surrogateescape")):
            raise AdminError(AdminProblem.HOST)

    def _authorize(self, request: web.Request) -> None:
        if _is_local(request.transport):
            return
        wanted = self._token.reveal().encode()
        token = _token_of(request.headers.getall(hdrs.AUTHORIZATION, []))
        if not wanted or token is None or not hmac.compare_digest(token, wanted):
            raise AdminError(AdminProblem.TOKEN)


def _is_local(transport: asyncio.Transport | None) -> bool:
    """Return whether the peer is on this machine, by its socket: anybody can send forwarded fields."""
    if transport is None:
        return False
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == getattr(socket, "AF_UNIX", None):
        return True
    peer = transport.get_extra_info("peername")
    return isinstance(peer, tuple) and is_loopback_host(str(peer[0]))


def _token_of(values: Sequence[str]) -> bytes | None:
    """Return the token sent as Bearer or as the password of Basic; None without one."""
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
        raise AdminError(AdminProblem.TOO_LARGE)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError as exc:
        raise AdminError(AdminProblem.SLOW) from exc
    except web.RequestPayloadError as exc:
        raise AdminError(AdminProblem.MALFORMED) from exc
    try:
        stack_id = _PURGE_DECODER.decode(body).stack_id
        if is_id(stack_id.encode()):
            return stack_id
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise AdminError(AdminProblem.BODY) from exc
    # Nothing is ever stored under it: success would suggest that a pattern, say, was purged.
    raise AdminError(AdminProblem.BODY)


def _json(data: dict[str, object], status: int = 200) -> web.Response:
    body = msgspec.json.encode(data, enc_hook=str) + b"\n"
    return web.Response(body=body, status=status, headers={hdrs.CONTENT_TYPE: "application/json"})


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Send 100 Continue (RFC 9110 section 10.1.1)."""
    if request.version != (1, 1):
        return None
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return answer(AdminProblem.EXPECTATION)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim response is not the start of the final one.
    request.writer.output_size = 0
    return None


async def _finish_head(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_FIELDS.items():
        # The page has its own policy.
        response.headers.setdefault(name, value)
    # aiohttp's has its version.
    response.headers.popall(hdrs.SERVER, None)
