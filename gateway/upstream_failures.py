"""What aiohttp's client raises, translated once into what the gateway says (RFC 9209 §2.3)."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp.client_exceptions import ClientConnectionError, ClientPayloadError, SocketTimeoutError
from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import UpstreamError, UpstreamTimeout

FAILURES = (ClientConnectionError, ClientPayloadError, HttpProcessingError, OSError, TimeoutError)


def connect_failure(error: Exception) -> UpstreamError:
    """Return what a connection that could not be made is answered with."""
    match error:
        case TimeoutError():
            return UpstreamTimeout("connection_timeout", was_sent=False)
        case aiohttp.ClientConnectorCertificateError():
            return UpstreamError("tls_certificate_error", was_sent=False)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return UpstreamError("tls_protocol_error", was_sent=False)
        case aiohttp.ClientConnectorDNSError():
            return UpstreamError("dns_error", was_sent=False)
        case _:
            return UpstreamError("connection_refused", was_sent=False)


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
