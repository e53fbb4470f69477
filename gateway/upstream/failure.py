"""What aiohttp's client raises, translated once into what the gateway says (RFC 9209 §2.3)."""

from __future__ import annotations

import errno
import os
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
    """Return what to say of a connection that could not be made."""
    match error:
        case TimeoutError() | OSError(errno=errno.ETIMEDOUT):
            return UpstreamTimeout("connection_timeout", was_sent=False)
        case aiohttp.ClientConnectorCertificateError():
            kind = "tls_certificate_error"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            kind = "tls_protocol_error"
        case aiohttp.ClientConnectorDNSError():
            kind = "dns_error"
        case aiohttp.ServerDisconnectedError():
            kind = "connection_terminated"
        case OSError():
            kind = _BY_ERRNO.get(error.errno or 0, "destination_unavailable")
        case _:
            kind = "destination_unavailable"
    return UpstreamError(kind, was_sent=False, said=_said(error))


def exchange_failure(error: BaseException, *, was_headless: bool) -> UpstreamError:
    """Return what to say of an exchange that broke off.

    Args:
        error: one of `FAILURES`.
        was_headless: before the head of the answer was complete.
    """
    match error:
        case TimeoutError() | SocketTimeoutError():
            return UpstreamTimeout("connection_read_timeout", was_sent=True)
        case HttpProcessingError():
            # Its text quotes the answer, which may hold anything.
            return UpstreamError("http_protocol_error", was_sent=True)
        case ClientPayloadError():
            return UpstreamError("http_response_incomplete", was_sent=True)
        case _:
            cut = "connection_terminated" if was_headless else "http_response_incomplete"
            return UpstreamError(cut, was_sent=True, said=_said(error))


def _said(error: BaseException) -> str:
    """Return the words of the system or of TLS for an error; empty when there are none."""
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    match cause:
        case ssl.SSLCertVerificationError():
            return cause.verify_message
        case ssl.SSLError():
            return cause.reason or ""
        case OSError(errno=int(number)) if number > 0:
            # asyncio's own text repeats the address.
            return os.strerror(number)
        case OSError(strerror=str(text)):
            return text
        case _:
            return ""
