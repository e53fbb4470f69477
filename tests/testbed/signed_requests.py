"""Generated requests, and the vendor's own SDK that signs them."""

import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from huaweicloudsdkcore.auth.credentials import Credentials
from huaweicloudsdkcore.sdk_request import SdkRequest

NOW_S = 1_700_000_000.0

_PLAIN = string.ascii_letters + string.digits + "-._~"
_ODD = "        !\"#$%&'()*+,/:;<=>?@[\\]^`{|}\t\n\x00\x7fäß\u00a0中文é\u2028😀"
# Sent as they are by some clients, encoded by others.
_UNENCODED_IN_PATH = "!$&'()*+,:;=@"
_UNENCODED_IN_QUERY = "!$'()*,/:;?@"
_TYPES = (
    "application/json",
    "application/json;charset=utf8",
    "application/bson",
    "text/plain",
    "multipart/form-data",
)


@dataclass(frozen=True)
class Key:
    """An access key, as the tests know it."""

    access_key: str
    secret_key: str
    security_token: str | None


@dataclass
class Unsigned:
    """A request before it is signed.

    Attributes:
        path: encoded as it is sent.
        query: as it is sent; "" for none.
        parameters: what the query says, decoded.
        fields: those that are signed, Host first.
    """

    method: str
    path: str
    query: str
    parameters: list[tuple[str, str]]
    fields: dict[str, str]
    body: bytes
    key: Key
    now_s: float
    repeats: bool = field(default=False)

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


def requests(count: int, seed: int = 1) -> list[Unsigned]:
    """Make requests with all that is odd in a target, a field or a body; same seed, same requests."""
    rng = Random(seed)
    return [_request(rng) for _ in range(count)]


def signed_by_sdk(request: Unsigned) -> dict[str, str]:
    """Have the SDK sign a request; returns its fields, those that it was given included."""
    fields = dict(request.fields)
    moment = datetime.fromtimestamp(request.now_s, UTC)
    fields["X-Sdk-Date"] = moment.strftime("%Y%m%dT%H%M%SZ")
    credentials = Credentials(request.key.access_key, request.key.secret_key)
    if request.key.security_token is not None:
        credentials = credentials.with_security_token(request.key.security_token)
    parameters: list[tuple[str, str | list[str]]] = [*request.parameters]
    if request.repeats:
        # The SDK takes repeated parameters as lists too.
        by_name: dict[str, list[str]] = {}
        for name, value in request.parameters:
            by_name.setdefault(name, []).append(value)
        parameters = [*by_name.items()]
    unsigned = SdkRequest(
        method=request.method,
        host=fields["Host"],
        resource_path=request.path,
        query_params=parameters,
        header_params=fields,
        body=request.body,
    )
    return dict(credentials.sign_request(unsigned).header_params)


def _request(rng: Random) -> Unsigned:
    query, parameters = _query(rng)
    body = rng.choice(
        (b"", b'{"lifecycle": "upgrade"}', '{"name": "中文"}'.encode(), rng.randbytes(rng.randrange(600)))
    )
    fields = {
        "Host": rng.choice(("aos.cn-north-4.example.com", "127.0.0.1:8090", "[::1]:443", "AOS.Example.com"))
    }
    if rng.random() < 0.5:
        fields["Content-Type"] = rng.choice(_TYPES)
    if rng.random() < 0.5:
        fields["X-Project-Id"] = rng.randbytes(16).hex()
    if rng.random() < 0.3:
        fields["User-Agent"] = f"  agent/1.0 {_text(rng, 'äß中é ,;=')} "
    if rng.random() < 0.2:
        fields["X_Under_Score"] = "unsigned"
    if rng.random() < 0.2:
        fields["x-empty"] = ""
    return Unsigned(
        method=rng.choice(("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH")),
        path=_path(rng),
        query=query,
        parameters=parameters,
        fields=fields,
        body=body,
        key=Key(
            access_key=_text(rng, string.ascii_uppercase + string.digits, 20),
            secret_key=_text(rng, _PLAIN + "/+=", 40),
            security_token=_text(rng, _PLAIN + "+=", rng.choice((100, 4_000)))
            if rng.random() < 0.3
            else None,
        ),
        now_s=NOW_S + rng.randrange(-100_000_000, 100_000_000) + rng.random(),
        repeats=rng.random() < 0.5,
    )


def _text(rng: Random, alphabet: str, length: int | None = None) -> str:
    return "".join(rng.choices(alphabet, k=rng.randrange(12) if length is None else length))


def _encoded(rng: Random, text: str, unencoded: str) -> str:
    """Encode a text for a target: what need not be encoded may be, in upper or lower case."""
    parts = []
    for character in text:
        if character in _PLAIN + unencoded and rng.random() < 0.8:
            parts.append(character)
        else:
            escaped = "".join(f"%{byte:02X}" for byte in character.encode())
            parts.append(escaped.lower() if rng.random() < 0.3 else escaped)
    return "".join(parts)


def _path(rng: Random) -> str:
    """Make a path: often the execution call's, else of odd segments with %2F, bad escapes and empty ones."""
    if rng.random() < 0.3:
        return f"/v2/stacks/{rng.randbytes(16).hex()}/actions/{_text(rng, _PLAIN, 12)}"
    segments = [_encoded(rng, _text(rng, _PLAIN + _ODD), _UNENCODED_IN_PATH) for _ in range(rng.randrange(5))]
    segments += rng.sample(["%2F", "%2f%2F", "%FF", "%zz", "%", "..", ".", "", "a%00b"], rng.randrange(4))
    rng.shuffle(segments)
    return "/" + "/".join(segments)


def _query(rng: Random) -> tuple[str, list[tuple[str, str]]]:
    """Make a query with what it says: names alone, repeated and empty ones, blanks as + and %20."""
    names = [_text(rng, _PLAIN + _ODD) for _ in range(3)]
    items: list[str] = []
    parameters: list[tuple[str, str]] = []
    for _ in range(rng.choice((0, 0, 1, 2, 6))):
        name, value = rng.choice(names), rng.choice((_text(rng, _PLAIN + _ODD), "", "1"))
        raw_name, raw_value = (_encoded(rng, text, _UNENCODED_IN_QUERY) for text in (name, value))
        if rng.random() < 0.7:
            raw_value = raw_value.replace("%20", "+")
        if rng.random() < 0.1:
            raw_value, value = f"{raw_value}%FF%zz", f"{value}\ufffd%zz"
        raw = f"{raw_name}={raw_value}" if value or not name or rng.random() < 0.7 else raw_name
        items.append(raw)
        parameters.append((name, value))
        if rng.random() < 0.1:
            items.append("")
    return "&".join(items), parameters
