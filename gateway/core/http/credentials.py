"""Which requests without credentials of their own may go upstream with the gateway's."""

import hmac
import re
from collections.abc import Iterable

import msgspec

from gateway.core.http import signature
from gateway.core.http.errors import Denied, MessageError
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Fields, IndexedFields, Request, first, names, values
from gateway.core.http.target import METHOD_OVERRIDES

_TOKEN = b"x-auth-token"
_AUTHORIZATION = b"authorization"
# Whatever the settings say: who asks, for which project, by which method or, for some servers, at which path.
_OWN = (
    signature.FIELDS
    | METHOD_OVERRIDES
    | {_TOKEN, b"x-subject-token", b"x-security-token", b"x-apig-appcode", b"x-project-id", b"x-domain-id"}
    | {b"x-original-url", b"x-rewrite-url"}
)
# What needs no decoding and has no parameters (RFC 3986 §3.3), so that every server reads it alike.
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()+,=:@-]+"
_PLAIN_PATH = re.compile(f"(?:/{_SEGMENT})+".encode())
_NAME = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_METHOD = re.compile(rb"[A-Z]{3,16}")
_MOST_NAMED = 8
_BEARER = re.compile(rb"\s*bearer(?:\s|\Z)", re.IGNORECASE)
_NO_BROWSER = (b"none", b"same-origin")

_PARTIAL = (
    "The request has a field that belongs to credentials, or replaces its method or path, but no whole "
    "credentials of its own: send X-Auth-Token or a signature with it, or leave it out."
)
_FOREIGN_HOST = (
    "Host is not a name of this gateway or of its upstream, and nothing else is answered with the gateway's "
    "own credentials: server.admin_hosts and upstream.signed_hosts can name more."
)
_BROWSER = "The request comes from a web page, and those may not use the gateway's own credentials."
_NOT_A_CLIENT = "The gateway's own credentials are for callers with the client token alone."
_NOT_PLAIN = (
    "The gateway's own credentials are for plain paths alone: without escapes, parameters, and empty or dot "
    "segments."
)


class CredentialRules:
    """Tells requests with credentials of their own from those that are to be given the gateway's.

    Args:
        identity_headers: lower-case names of the fields that identify a caller.
        allow: what may be asked with the gateway's, as method and path; ``*`` stands for one segment.
        own_hosts: what ``Host`` may say then; ``None`` lets it say anything.
        client_token: what their callers have to send as ``Authorization: Bearer``; empty for nothing.
    """

    def __init__(
        self,
        identity_headers: Iterable[bytes],
        allow: Iterable[str],
        own_hosts: OwnHosts | None,
        client_token: bytes,
    ) -> None:
        self._own = _OWN | {name.replace(b"_", b"-") for name in identity_headers}
        patterns = (re.escape(pattern).replace(r"\*", _SEGMENT) for pattern in allow)
        self._allowed = re.compile("|".join(patterns).encode() or rb"(?!)")
        self._own_hosts = own_hosts
        self._client_token = client_token

    def sort(self, request: Request) -> Request:
        """Return a request as it goes on: without the client token, and marked if it needs credentials.

        Raises:
            MessageError: 400 for credentials in part, 421 for a foreign host.
            Denied: 401 or 403: nothing of it may go upstream.
        """
        fields, is_client = self._without_client_token(request.fields)
        if any(name.replace(b"_", b"-") in self._own for name in names(fields)):
            if not (any(values(fields, _TOKEN)) or signature.is_signed(fields)):
                raise MessageError(400, _PARTIAL, closes=False)
            return request if fields is request.fields else msgspec.structs.replace(request, fields=fields)
        if self._own_hosts is not None and not self._own_hosts.has(first(fields, b"host") or b""):
            raise MessageError(421, _FOREIGN_HOST, closes=False)
        sites = values(fields, b"sec-fetch-site")
        if first(fields, b"origin") is not None or any(site not in _NO_BROWSER for site in sites):
            raise Denied(403, _BROWSER)
        if not is_client:
            raise Denied(401, _NOT_A_CLIENT)
        method = b"GET" if request.method == "HEAD" else request.method.encode()
        path = request.target.partition(b"?")[0]
        if not self._allowed.fullmatch(method + b" " + path):
            raise Denied(403, _missing(method, path))
        return msgspec.structs.replace(request, fields=fields, needs_credentials=True)

    def _without_client_token(self, fields: Fields) -> tuple[Fields, bool]:
        """Return the fields without the client token, and whether it was there, if there has to be one.

        Raises:
            Denied: 401 for another one, which might be that of yesterday.
        """
        lines = values(fields, _AUTHORIZATION)
        tokens = [line for line in lines if _BEARER.match(line)]
        if not (self._client_token and tokens):
            return fields, not self._client_token
        if any(
            not hmac.compare_digest(_BEARER.sub(b"", line, 1).strip(), self._client_token) for line in tokens
        ):
            raise Denied(401, _NOT_A_CLIENT)
        kept = (field for field in fields if not (field[0].lower() == _AUTHORIZATION and field[1] in tokens))
        return IndexedFields(kept), True


def _missing(method: bytes, path: bytes) -> str:
    """Say which pattern would allow a request; nothing of it is repeated but plain names."""
    if not _PLAIN_PATH.fullmatch(path):
        return _NOT_PLAIN
    # /v2/stacks/{id}/outputs: ids stand at every other place.
    segments = [b"*" if place and place % 2 == 0 else name for place, name in enumerate(path.split(b"/")[1:])]
    names_only = all(one == b"*" or _NAME.fullmatch(one) for one in segments)
    if not (names_only and len(segments) <= _MOST_NAMED and _METHOD.fullmatch(method)):
        return "credentials.allow has no pattern for this request."
    pattern = (method + b" /" + b"/".join(segments)).decode("ascii")
    return (
        f'credentials.allow has no "{pattern}", so the gateway\'s own credentials are not for this request.'
    )
