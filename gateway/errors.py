"""Errors of fetching and of connections, and the response that the gateway makes of any error."""

import math
from email.utils import formatdate
from http import HTTPStatus

import orjson

from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Field, Head

UPSTREAM_DETAILS = {
    "connection_read_timeout": "The upstream did not answer in time.",
    "connection_refused": "The upstream refused the connection.",
    "connection_terminated": "The upstream closed the connection before it answered.",
    "connection_timeout": "The connection to the upstream was not established in time.",
    "destination_ip_unroutable": "There is no route to the upstream.",
    "destination_unavailable": "No connection to the upstream could be made.",
    "dns_error": "The upstream's name could not be resolved.",
    "http_protocol_error": "The upstream's response is not well-formed HTTP.",
    "http_response_incomplete": "The upstream's response ended before it was complete.",
    "http_response_transfer_coding": "The upstream's response has an unknown transfer coding.",
    "proxy_internal_error": "The gateway lacks sockets or memory for a connection to the upstream.",
    "tls_certificate_error": "The upstream's certificate is not trusted, not valid now, or for another name.",
    "tls_protocol_error": "The upstream and the gateway could not agree on a TLS connection.",
}
"""The detail for a missing or unusable upstream response, by the error type of ``Proxy-Status``."""


class FetchError(GatewayError):
    """Nothing usable was fetched; ``reason``: why nothing was sent, ``None`` if something may have been."""

    reason: Reason | None = None


class UpstreamError(FetchError):
    """There was no usable upstream response; ``detail`` comes from `UPSTREAM_DETAILS`.

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
    """The queue for upstream connections is full."""

    status = 503
    detail = "The gateway has too many requests waiting for the upstream."
    retry_after_s = 1
    reason = Reason.UPSTREAM_BUSY

    def __init__(self) -> None:
        super().__init__("connection_limit_reached", was_sent=False)


class GaveWay(UpstreamError):
    """The caller sent its body so slowly that its connection was given to a waiting request."""

    status = 503
    number = 3
    detail = "The request body came so slowly that the gateway gave its place to other requests."
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("connection_limit_reached", was_sent=True)


class TooManyConnections(GatewayError):
    """The bound of connections is reached, in total or for one address."""

    status = 503
    number = 2
    detail = "The gateway has too many connections."
    proxy_error = "http_request_error"
    retry_after_s = 1
    closes = True


class DeadlinePassed(GatewayError):
    """A shared fetch took longer than a follower may wait."""

    status = 504
    number = 2
    detail = "The record did not arrive in time."
    proxy_error = "http_response_timeout"


class Throttled(FetchError):
    """The upstream asked this caller, or all, to wait, and that time has not passed."""

    status = 429
    detail = "The upstream asked to wait; nothing was sent to it."
    proxy_error = "http_request_denied"
    reason = Reason.THROTTLED

    def __init__(self, wait_s: float) -> None:
        super().__init__(self.detail)
        self.retry_after_s = math.ceil(wait_s)
        self.cache_member = CacheStatus(reason=self.reason).member()


class NoCredentials(FetchError):
    """The gateway cannot add credentials of its own, for a ``kind`` of reason; it may after a while."""

    status = 503
    number = 4
    detail = "The gateway cannot add its own credentials at present"
    reason = Reason.CREDENTIALS

    def __init__(self, kind: str, wait_s: float) -> None:
        super().__init__(kind)
        self.detail = f"{self.detail}: {kind}."
        self.retry_after_s = max(1, math.ceil(wait_s))


class NotCached(FetchError):
    """The request is ``only-if-cached`` and nothing usable is stored."""

    status = 504
    number = 3
    detail = "The request asks for a stored response only, and there is none."
    proxy_error = "http_request_denied"
    reason = Reason.REQUEST_ONLY_IF_CACHED


class CallerGone(GatewayError):
    """The caller disconnected or stalled before its request body was complete."""

    status = 408
    number = 2
    detail = "The request body did not arrive in time."
    proxy_error = "http_request_error"
    closes = True


def problem(error: GatewayError, request_id: bytes) -> tuple[Head, bytes]:
    """Return the head and body of the gateway's own response to an error: its fixed texts, nothing else."""
    reason = HTTPStatus(error.status).phrase
    # For two kinds of clients: members of RFC 9457, then those of AOS's own errors.
    body = orjson.dumps(
        {
            "type": f"urn:aos-gateway:problem:{error.code}",
            "title": reason,
            "status": error.status,
            "detail": error.detail,
            "instance": f"urn:aos-gateway:request:{request_id.decode('ascii', 'replace')}",
            "code": error.code,
            "message": error.detail,
            "extend": "",
            "showdetail": False,
        }
    )
    fields: list[Field] = [
        # RFC 9110 §6.6.1: an origin with a clock sends Date.
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
    if error.challenge is not None:
        fields.append((b"WWW-Authenticate", error.challenge.encode("ascii")))
    if error.cache_member is not None:
        fields.append((b"Cache-Status", error.cache_member))
    return Head(error.status, reason.encode("ascii"), tuple(fields)), body
