"""Content codings of stored bodies (RFC 9110 §8.4)."""

import zlib

from gateway.core.caching.cache_status import Reason
from gateway.core.http.messages import Fields, first, members


def plain_body(fields: Fields, body: bytes, max_bytes: int) -> bytes | Reason:
    """Return a body of at most ``max_bytes`` without its content coding.

    Otherwise `Reason.CONTENT_CODING` for an unknown, invalid or incomplete coding, or `Reason.TOO_LARGE`.
    """
    if first(fields, b"content-encoding") is None:
        return body
    codings = [coding.lower() for coding in members(fields, b"content-encoding")]
    match [coding for coding in codings if coding != b"identity"]:
        case []:
            return body
        case [b"gzip" | b"x-gzip"]:
            inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            try:
                plain = inflater.decompress(body, max_bytes + 1)
            except zlib.error:
                return Reason.CONTENT_CODING
            if len(plain) > max_bytes:
                return Reason.TOO_LARGE
            return plain if inflater.eof and not inflater.unused_data else Reason.CONTENT_CODING
        case _:
            return Reason.CONTENT_CODING
