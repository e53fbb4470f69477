"""Which call a method and a path mean."""

from enum import StrEnum
from typing import Final
from urllib.parse import unquote

import msgspec


class Route(StrEnum):
    """The calls of the AOS v2 API and of IAM that the twin knows: method and path, `*` for an id."""

    CREATE_STACK = "POST /v2/stacks"
    LIST_STACKS = "GET /v2/stacks"
    GET_STACK = "GET /v2/stacks/*"
    DELETE_STACK = "DELETE /v2/stacks/*"
    RUN_LIFECYCLE = "PUT /v2/stacks/*/actions"
    LIST_EXECUTIONS = "GET /v2/stacks/*/actions"
    GET_EXECUTION = "GET /v2/stacks/*/actions/*"
    LIST_ELEMENTS = "GET /v2/stacks/*/elements"
    GET_ELEMENT = "GET /v2/stacks/*/elements/*"
    OUTPUTS = "GET /v2/stacks/*/outputs"
    INPUTS = "GET /v2/stacks/*/inputs"
    CREATE_TOKEN = "POST /v3/auth/tokens"
    VERIFY_TOKEN = "GET /v3/auth/tokens"
    UNKNOWN = ""

    @classmethod
    def _missing_(cls, value: object) -> "Route":
        return cls.UNKNOWN

    @property
    def label(self) -> str:
        return self.name.lower()


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A call with the ids of its path, decoded: the stack's, then the execution's or element's."""

    route: Route
    ids: tuple[str, ...]


# Places of the ids among the segments of a path, the empty one before the first slash included.
_ID_PLACES: Final = (3, 5)
_STACKS: Final = "/v2/stacks/"


def path_of(target: str) -> str:
    """Return the path of a request target as it was sent, without the query (RFC 9112 section 3.2)."""
    path = target.partition("?")[0]
    if "://" in path and not path.startswith("/"):
        _, slash, rest = path.partition("://")[2].partition("/")
        return slash + rest
    return path


def match(method: str, path: str) -> Match:
    """Return the call that a method and a percent-encoded path mean; HEAD is the same call as GET."""
    method = "GET" if method == "HEAD" else method
    if not path.startswith(_STACKS):
        return Match(route=Route(f"{method} {path}"), ids=())
    segments = path.split("/")
    ids = tuple(unquote(segments[place]) for place in _ID_PLACES if place < len(segments))
    shape = "/".join("*" if place in _ID_PLACES else segment for place, segment in enumerate(segments))
    return Match(route=Route(f"{method} {shape}"), ids=ids)
