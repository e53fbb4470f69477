"""What the system and TLS raise, translated once into what the gateway says (RFC 9209 §2.3)."""

import errno
import os
import socket
import ssl

from gateway.errors import UpstreamError, UpstreamTimeout

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


def connect_failure(error: OSError) -> UpstreamError:
    """Return what to say of a connection that could not be made."""
    match error:
        case TimeoutError() | OSError(errno=errno.ETIMEDOUT):
            return UpstreamTimeout("connection_timeout", was_sent=False)
        case ssl.SSLCertVerificationError():
            kind = "tls_certificate_error"
        case ssl.SSLError():
            kind = "tls_protocol_error"
        case socket.gaierror():
            kind = "dns_error"
        case ConnectionResetError() | ConnectionAbortedError():
            kind = "connection_terminated"
        case _:
            kind = _BY_ERRNO.get(error.errno or 0, "destination_unavailable")
    return UpstreamError(kind, was_sent=False, said=words_of(error))


def words_of(error: BaseException | None) -> str:
    """Return the words of the system or of TLS for an error; empty when there are none."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError():
            return error.reason or ""
        case OSError(errno=int(number)) if number > 0:
            # asyncio's own text repeats the address.
            return os.strerror(number)
        case OSError(strerror=str(text)):
            return text
        case _:
            return ""
