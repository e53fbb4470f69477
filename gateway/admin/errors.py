"""The error responses of the admin address: one row each, one format."""

import secrets
from enum import Enum
from typing import Final

from aiohttp import hdrs, web

from gateway.core.http.errors import GatewayError
from gateway.errors import problem

_REALM: Final = "aos-gateway admin"
_BODY_SHAPE: Final = (
    'The body has to be {"stack_id": "..."} and nothing else, an id of 1 to 64 of A-Z a-z 0-9 . _ ~ -'
    " that is not dots alone."
)
_TOKEN_RULE: Final = (
    "Over the network this path needs server.admin_token: as bearer, or in a browser as password of any user."
)
# Proxy-Status is about an upstream, which admin requests do not have (RFC 9209).
_NOT_HERE: Final = frozenset({b"Proxy-Status", b"Content-Length"})

SECURITY_FIELDS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AdminProblem(Enum):
    """Why an admin request fails: status, number within the status, text."""

    MALFORMED = (400, 901, "The request is malformed.")
    BODY = (400, 902, _BODY_SHAPE)
    TOKEN = (401, 901, _TOKEN_RULE)
    PATH = (404, 901, "Nothing is at this path.")
    METHOD = (405, 901, "This path does not take the method.")
    SLOW = (408, 901, "The body did not arrive in time.")
    TOO_LARGE = (413, 901, "The body is too large.")
    MEDIA_TYPE = (415, 901, "The body has to be plain application/json.")
    EXPECTATION = (417, 901, "Only 100-continue can be expected.")
    HOST = (421, 901, "The Host is neither a loopback name nor an IP address nor one of server.admin_hosts.")
    HEAD_TOO_LARGE = (431, 901, "The request head is too large.")
    FAILED = (500, 901, "The gateway failed; see its log for this request id.")
    PENDING = (503, 901, "Invalidated here, but Redis has not confirmed it yet; the gateway keeps trying.")


class AdminError(GatewayError):
    """Ends an admin request."""

    def __init__(self, why: AdminProblem) -> None:
        super().__init__(why.name)
        self.why = why
        self.status, self.number, self.detail = why.value
        self.retry_after_s = 1 if why is AdminProblem.PENDING else None


def of_status(status: int) -> AdminProblem:
    """Return the reason that an aiohttp error status stands for."""
    otherwise = AdminProblem.MALFORMED if status < 500 else AdminProblem.FAILED
    return next((why for why in AdminProblem if why.value[0] == status), otherwise)


def answer(why: AdminProblem, allow: str | None = None, accept: str = "") -> web.Response:
    """Return the error response, with a new request id in X-Request-Id.

    Args:
        allow: value of Allow for `AdminProblem.METHOD`.
        accept: value of the request's Accept. A browser gets plain text and asks for the token. The page's
            own polls don't, or the browser would ask again every second.
    """
    head, body = problem(AdminError(why), secrets.token_hex(16).encode())
    response = web.Response(status=head.status, reason=head.reason.decode(), body=body)
    for name, value in head.fields:
        if name not in _NOT_HERE:
            response.headers[name.decode()] = value.decode()
    if why is AdminProblem.TOKEN:
        if "text/html" in accept:
            response.text, response.content_type = why.value[2] + "\n", "text/plain"
        response.headers.add(hdrs.WWW_AUTHENTICATE, f'Bearer realm="{_REALM}"')
        if accept != "application/json":
            response.headers.add(hdrs.WWW_AUTHENTICATE, f'Basic realm="{_REALM}", charset="UTF-8"')
    if allow is not None:
        response.headers[hdrs.ALLOW] = allow
    if why is AdminProblem.SLOW:
        response.force_close()
    return response
