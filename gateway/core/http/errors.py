"""Errors that carry the gateway's own answer, raised where the fault is found."""


class GatewayError(Exception):
    """The gateway answers for itself. An upstream's error status is data and never an exception.

    Attributes:
        status: the response's status.
        number: distinguishes errors of one status in ``code``, at most four digits.
        detail: fixed text for the caller.
        proxy_error: error type of ``Proxy-Status`` (RFC 9209 §2.3).
        retry_after_s: seconds for ``Retry-After``; ``None`` omits it.
        allow: value of ``Allow``, required in a 405; ``None`` omits it.
        challenge: value of ``WWW-Authenticate``, required in a 401; ``None`` omits it.
        closes: the connection must not carry another request.
        cache_member: the gateway's ``Cache-Status`` member; ``None`` when the cache took no part.
    """

    status = 500
    number = 1
    detail = "The gateway failed."
    proxy_error = "proxy_internal_error"
    retry_after_s: int | None = None
    allow: str | None = None
    challenge: str | None = None
    closes = False
    cache_member: bytes | None = None

    @property
    def code(self) -> str:
        """The error's name in the response body: ``GATEWAY.<status><number>``."""
        return f"GATEWAY.{self.status}{self.number:04d}"


class MessageError(GatewayError):
    """The request cannot be carried as it is meant.

    Args:
        status: the response's status, 4xx or 505.
        detail: one of the gateway's own fixed sentences.
    """

    proxy_error = "http_request_error"

    def __init__(self, status: int, detail: str, *, allow: str | None = None, closes: bool = True) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.allow = allow
        self.closes = closes


class Denied(MessageError):
    """The caller may not have what it asks for of this gateway."""

    proxy_error = "http_request_denied"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail, closes=False)
        if status == 401:
            self.challenge = "Bearer"


class ProxyLoop(GatewayError):
    """The request has passed this gateway before."""

    status = 502
    number = 2
    detail = "The request came back to this gateway: upstream.url leads in a circle."
    proxy_error = "proxy_loop_detected"
