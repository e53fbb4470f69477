"""The twin's replies, and error bodies in the shapes of AOS, its API gateway and its load balancer."""

from http import HTTPStatus
from typing import Final

import msgspec

from gateway.twin.records import Json, dump

Headers = tuple[tuple[str, str], ...]

JSON: Final = "application/json"
_UNITS_S: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A response before it is sent.

    Attributes:
        headers: besides Content-Type, Content-Length and those of every response.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: Headers = ()


def json_reply(status: int, value: Json | list[Json], *, compact: bool) -> Reply:
    """Return an answer with a JSON body."""
    return Reply(status=status, body=dump(value, compact=compact))


def aos_error(status: int, code: str, message: str, extend: str = "") -> Reply:
    """Return an error in the shape of AOS (API page aos_02_0042), keys in the order of real answers."""
    body: Json = {"message": message, "code": code, "extend": extend, "showdetail": bool(extend)}
    return Reply(status=status, body=dump(body, compact=True))


def older_aos_error(status: int, code: str, message: str) -> Reply:
    """Return an error in the older shape of AOS, as creating a stack does (API page aos_02_0021)."""
    return Reply(status=status, body=dump({"message": message, "code": code, "extend": ""}, compact=True))


def apigw_error(status: int, code: str, message: str, request_id: str, headers: Headers = ()) -> Reply:
    """Return an error in the shape of the API gateway in front of AOS."""
    body: Json = {"error_code": code, "error_msg": message, "request_id": request_id}
    return Reply(status=status, body=dump(body, compact=True), headers=headers)


def html_error(status: int) -> Reply:
    """Return the error page of a load balancer, which is HTML."""
    text = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    page = (
        f"<html>\r\n<head><title>{text}</title></head>\r\n<body>\r\n<center><h1>{text}</h1></center>\r\n"
        "<hr><center>elb</center>\r\n</body>\r\n</html>\r\n"
    )
    return Reply(status=status, body=page.encode(), content_type="text/html")


def throttled(request_id: str, retry_after_s: int | None, policy: str, limit: int, window_s: int) -> Reply:
    """Return the API gateway's 429 (APIGW.0308).

    Args:
        request_id: as in the answer's X-Request-Id.
        retry_after_s: value of Retry-After; None to omit it, as the real one does.
        policy: what the limit counts: "user", "ip" or "api".
        limit: calls in a window.
        window_s: length of the window, seconds.
    """
    count, unit = next((window_s // s, unit) for unit, s in _UNITS_S if window_s % s == 0)
    reached = f"policy {policy} over ratelimit,limit:{limit},time:{count} {unit}"
    message = f"The throttling threshold has been reached: {reached}"
    headers = () if retry_after_s is None else (("Retry-After", str(retry_after_s)),)
    return apigw_error(429, "APIGW.0308", message, request_id, headers)


def unknown_api(request_id: str) -> Reply:
    """Return the answer to a method and path that AOS does not have."""
    message = "The API does not exist or has not been published in the environment"
    return apigw_error(404, "APIGW.0101", message, request_id)


def unauthorized(request_id: str, why: str) -> Reply:
    """Return the response to a missing or invalid token."""
    return apigw_error(401, "APIGW.0301", f"Incorrect IAM authentication information: {why}", request_id)


def not_found() -> Reply:
    """Return the answer for a stack, record or element that does not exist (any more)."""
    return aos_error(404, "SVCSTG.AOS.4040013", "Resource Not Found")


def bad_request(detail: str, code: str = "SVCSTG.AOS.4000010") -> Reply:
    """Return AOS's answer to a bad parameter; `detail` says what is wrong with it."""
    return aos_error(400, code, "Bad request, the request parameter is invalid, please check.", detail)


def server_error() -> Reply:
    """Return AOS's answer to its own failure."""
    return aos_error(500, "SVCSTG.AOS.5001002", "Internal error.please check the error log and handle it.")
