"""Errors of the gateway itself: no usable upstream response, or a request it cannot carry.

An upstream error status is data and never an exception.
"""

from __future__ import annotations

import math
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from gateway.core.caching.cache_status import Reason
from gateway.core.http.messages import Field, Head
from gateway.core.http.request import CARRIED_METHODS

UPSTREAM_DETAILS = {
    "connection_read_timeout": "The upstream did not answer in time.",
    "connection_refused": "The upstream refused the connection.",
    "connection_terminated": "The upstream ended the connection before it had answered.",
    "connection_timeout": "The connection to the upstream did not stand in time.",
    "destination_ip_unroutable": "There is no way through the network to the upstream.",
    "destination_unavailable": "No connection to the upstream could be made.",
    "dns_error": "The upstream's name could not be resolved.",
    "http_protocol_error": "The upstream's answer is not well-formed HTTP.",
    "http_response_incomplete": "The upstream's answer broke off.",
    "http_response_transfer_coding": "The upstream's answer has a transfer coding that is not known here.",
    "proxy_internal_error": "The gateway lacks sockets or memory for a connection to the upstream.",
    "tls_certificate_error": "The upstream's certificate is not trusted, not valid now, or for another name.",
    "tls_protocol_error": "The upstream and the gateway could not agree on a TLS connection.",
}
"""What a caller is told of an upstream without a usable answer, by the error type of ``Proxy-Status``."""


class GatewayError(Exception):
    """The gateway answers for itself.

    Attributes:
        status: the status to answer with.
        number: tells apart errors of one status in ``code``, at most four digits.
        detail: fixed text for the caller.
        proxy_error: error type of ``Proxy-Status`` (RFC 9209 §2.3).
        retry_after_s: told in ``Retry-After``; ``None`` leaves it out.
        allow: told in ``Allow``, which a 405 has to have; ``None`` leaves it out.
        closes: the connection must not carry another request.
        reason: why nothing went upstream; ``None`` when something did, or may have.
        cache_member: the gateway's ``Cache-Status`` member; ``None`` when the cache was not asked.
    """

    status = 500
    number = 1
    detail = "The gateway failed."
    proxy_error = "proxy_internal_error"
    retry_after_s: int | None = None
    allow: str | None = None
    closes = False
    reason: Reason | None = None
    cache_member: bytes | None = None

    @property
    def code(self) -> str:
        """What the answer calls it: ``GATEWAY.<status><number>``."""
        return f"GATEWAY.{self.status}{self.number:04d}"


class BadRequest(GatewayError):
    """The request cannot be carried as it is meant; ``detail`` is one of our own fixed texts."""

    proxy_error = "http_request_error"

    def __init__(self, status: int, detail: str, *, closes: bool = True) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.allow = CARRIED_METHODS if status == HTTPStatus.METHOD_NOT_ALLOWED else None
        self.closes = closes


class ProxyLoop(GatewayError):
    """The request has been here before."""

    status = 502
    number = 2
    detail = "The request came back to this gateway: upstream.url leads in a circle."
    proxy_error = "proxy_loop_detected"


class UpstreamError(GatewayError):
    """There was no usable upstream response; `UPSTREAM_DETAILS` says why in words.

    Attributes:
        was_sent: the request may have reached the upstream, so its effect is unknown.
        said: what the system or TLS says of it, for the log alone; empty when it says nothing.
    """

    status = 502
    number = 1

    def __init__(self, proxy_error: str, *, was_sent: bool, said: str = "") -> None:
        super().__init__(proxy_error)
        self.proxy_error = proxy_error
        self.was_sent = was_sent
        self.detail = UPSTREAM_DETAILS.get(proxy_error, self.detail)
        self.said = said
        if not was_sent and self.reason is None:
            self.reason = Reason.UNREACHABLE


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504


class Overloaded(UpstreamError):
    """More requests wait for an upstream connection than configured."""

    status = 503
    detail = "The gateway has too many requests waiting for the upstream."
    retry_after_s = 1
    reason = Reason.UPSTREAM_BUSY

    def __init__(self) -> None:
        super().__init__("connection_limit_reached", was_sent=False)


class GaveWay(UpstreamError):
    """The caller sent so slowly that its exchange was ended for requests that waited for a connection."""

    status = 503
    number = 3
    detail = "The request body came so slowly that the gateway gave its place to other requests."
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("connection_limit_reached", was_sent=True)


class TooManyConnections(GatewayError):
    """There are as many connections as there may be, in all or from one address."""

    status = 503
    number = 2
    detail = "The gateway has too many connections."
    proxy_error = "http_request_error"
    retry_after_s = 1
    closes = True


class DeadlinePassed(GatewayError):
    """A shared fetch took longer than this caller may wait."""

    status = 504
    number = 2
    detail = "The record did not arrive in time."
    proxy_error = "http_response_timeout"


class Throttled(GatewayError):
    """The upstream asked this caller to wait, and the time is not over."""

    status = 429
    detail = "The upstream asked this caller to wait; nothing was sent to it."
    proxy_error = "http_request_denied"
    reason = Reason.THROTTLED

    def __init__(self, wait_s: float) -> None:
        super().__init__(self.detail)
        self.retry_after_s = math.ceil(wait_s)


class NotCached(GatewayError):
    """The caller asked for a stored answer only, and there is none."""

    status = 504
    number = 3
    detail = "The request asks for a stored response only, and there is none."
    proxy_error = "http_request_denied"
    reason = Reason.REQUEST_ONLY_IF_CACHED


class CallerGone(GatewayError):
    """The caller left or stalled before its request body was complete."""

    status = 408
    number = 2
    detail = "The request body did not arrive in time."
    proxy_error = "http_request_error"
    closes = True


class _Problem(msgspec.Struct, frozen=True):
    """One body for two readers: RFC 9457 members and AOS's own error members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    message: str
    extend: str = ""
    showdetail: bool = False


_encoder = msgspec.json.Encoder()


def problem(error: GatewayError, request_id: bytes) -> tuple[Head, bytes]:
    """Return head and body with which the gateway answers for itself.

    Args:
        error: what happened; only its fixed texts are told.
        request_id: names the request in the log.
    """
    reason = _reason(error.status)
    body = _encoder.encode(
        _Problem(
            type=f"urn:aos-gateway:problem:{error.code}",
            title=reason,
            status=error.status,
            detail=error.detail,
            instance=f"urn:aos-gateway:request:{request_id.decode('ascii', 'replace')}",
            code=error.code,
            message=error.detail,
        )
    )
    fields: list[Field] = [
        # Whoever makes an answer and has a clock says when (RFC 9110 §6.6.1).
        (b"Date", formatdate(usegmt=True).encode("ascii")),
        (b"Content-Type", b"application/problem+json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Request-Id", request_id),
        (b"Proxy-Status", f"aos-gateway; error={error.proxy_error}".encode("ascii")),
    ]
    if error.retry_after_s is not None:
        fields.append((b"Retry-After", b"%d" % error.retry_after_s))
    if error.allow is not None:
        fields.append((b"Allow", error.allow.encode("ascii")))
    if error.cache_member is not None:
        fields.append((b"Cache-Status", error.cache_member))
    return Head(error.status, reason.encode("ascii"), tuple(fields)), body


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase
