"""What aiohttp's client raises, translated once into what the gateway says (RFC 9209 §2.3)."""

from __future__ import annotations

import errno
import ssl

import aiohttp
from aiohttp.client_exceptions import ClientConnectionError, ClientPayloadError, SocketTimeoutError
from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import UpstreamError, UpstreamTimeout

FAILURES = (ClientConnectionError, ClientPayloadError, HttpProcessingError, OSError, TimeoutError)


_BY_ERRNO = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_terminated",
    errno.EPIPE: "connection_terminated",
    errno.ENETUNREACH: "destination_ip_unroutable",
    errno.EHOSTUNREACH: "destination_ip_unroutable",
    errno.EMFILE: "proxy_internal_error",
    errno.ENFILE: "proxy_internal_error",
    errno.ENOBUFS: "proxy_internal_error",
    errno.ENOMEM: "proxy_internal_error",
    errno.EADDRNOTAVAIL: "proxy_internal_error",
}


def connect_failure(error: Exception) -> UpstreamError:
    """Return what a connection that could not be made is answered with."""
    match error:
        case TimeoutError() | OSError(errno=errno.ETIMEDOUT):
            return UpstreamTimeout("connection_timeout", was_sent=False)
        case aiohttp.ClientConnectorCertificateError():
            proxy_error = "tls_certificate_error"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            proxy_error = "tls_protocol_error"
        case aiohttp.ClientConnectorDNSError():
            proxy_error = "dns_error"
        case aiohttp.ServerDisconnectedError():
            proxy_error = "connection_terminated"
        case OSError():
            proxy_error = _BY_ERRNO.get(error.errno or 0, "destination_unavailable")
        case _:
            proxy_error = "destination_unavailable"
    return UpstreamError(proxy_error, was_sent=False)


def failure(error: BaseException, *, was_headless: bool) -> UpstreamError:
    """Return what an exchange that broke off is answered with."""
    match error:
        case TimeoutError() | SocketTimeoutError():
            return UpstreamTimeout("connection_read_timeout", was_sent=True)
        case HttpProcessingError():
            return UpstreamError("http_protocol_error", was_sent=True)
        case ClientPayloadError():
            return UpstreamError("http_response_incomplete", was_sent=True)
        case _:
            cut = "connection_terminated" if was_headless else "http_response_incomplete"
            return UpstreamError(cut, was_sent=True)
