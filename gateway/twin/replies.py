"""The twin's replies, and error bodies in the shapes of AOS, its API gateway and its load balancer."""

from http import HTTPStatus
from typing import Final

import msgspec

from gateway.twin.records import Json, dump

Headers = tuple[tuple[str, str], ...]

_UNITS_S: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A response before it is sent; its headers without Content-Type, Content-Length and those of all."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Headers = ()


def aos_error(status: int, code: str, message: str, extend: str = "") -> Reply:
    """Return an error in the shape of AOS (API page aos_02_0042), keys in the order of real answers."""
    body: Json = {"message": message, "code": code, "extend": extend, "showdetail": bool(extend)}
    return Reply(status=status, body=dump(body))


def bad_request(detail: str, code: str = "SVCSTG.AOS.4000010") -> Reply:
    """Return AOS's answer to a bad parameter; `detail` says what is wrong with it."""
    return aos_error(400, code, "Bad request, the request parameter is invalid, please check.", detail)


# For a stack, record or element that does not exist (any more).
NOT_FOUND: Final = aos_error(404, "SVCSTG.AOS.4040013", "Resource Not Found")
SERVER_ERROR: Final = aos_error(
    500, "SVCSTG.AOS.5001002", "Internal error.please check the error log and handle it."
)


def invalid_body(error: str) -> Reply:
    """Return AOS's answer to a stack that it does not create, of an older shape (API page aos_02_0021)."""
    message = f"The request body is invalid, please check. Error: {error}"
    return Reply(status=400, body=dump({"message": message, "code": "02030008", "extend": ""}))


def apigw_error(status: int, code: str, message: str, request_id: str) -> Reply:
    """Return an error in the shape of the API gateway in front of AOS."""
    body: Json = {"error_code": code, "error_msg": message, "request_id": request_id}
    return Reply(status=status, body=dump(body))


def iam_error(status: int, message: str) -> Reply:
    """Return an error in the shape of IAM."""
    title = HTTPStatus(status).phrase if status in set(HTTPStatus) else str(status)
    return Reply(status=status, body=dump({"error": {"code": status, "message": message, "title": title}}))


def unknown_api(request_id: str) -> Reply:
    """Return the answer to a method and path that AOS does not have."""
    message = "The API does not exist or has not been published in the environment"
    return apigw_error(404, "APIGW.0101", message, request_id)


def unauthorized(request_id: str, why: str) -> Reply:
    """Return the response to a missing or invalid token or signature."""
    return apigw_error(401, "APIGW.0301", f"Incorrect IAM authentication information: {why}", request_id)


def throttled(request_id: str, policy: str, limit: int, window_s: int) -> Reply:
    """Return the API gateway's 429 (APIGW.0308), like the real one without Retry-After.

    `policy` says whose calls in `window_s` seconds the limit counts: "user", "ip" or "api".
    """
    count, unit = next((window_s // s, unit) for unit, s in _UNITS_S if window_s % s == 0)
    reached = f"policy {policy} over ratelimit,limit:{limit},time:{count} {unit}"
    message = f"The throttling threshold has been reached: {reached}"
    return apigw_error(429, "APIGW.0308", message, request_id)


def retry_after(reply: Reply, seconds: int | None) -> Reply:
    """Return a reply with Retry-After; as it is when `seconds` is None."""
    if seconds is None:
        return reply
    return msgspec.structs.replace(reply, headers=(("Retry-After", str(seconds)),))


def html_error(status: int) -> Reply:
    """Return the error page of a load balancer, which is HTML."""
    text = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    page = (
        f"<html>\r\n<head><title>{text}</title></head>\r\n<body>\r\n<center><h1>{text}</h1></center>\r\n"
        "<hr><center>elb</center>\r\n</body>\r\n</html>\r\n"
    )
    return Reply(status=status, body=page.encode(), content_type="text/html")
