"""Which call a method and a path mean."""

from enum import StrEnum
from typing import Final
from urllib.parse import unquote

import msgspec


class Route(StrEnum):
    """The calls of the AOS v2 API that the twin knows."""

    CREATE_STACK = "create_stack"
    LIST_STACKS = "list_stacks"
    GET_STACK = "get_stack"
    DELETE_STACK = "delete_stack"
    RUN_LIFECYCLE = "run_lifecycle"
    LIST_EXECUTIONS = "list_executions"
    GET_EXECUTION = "get_execution"
    LIST_ELEMENTS = "list_elements"
    GET_ELEMENT = "get_element"
    OUTPUTS = "outputs"
    INPUTS = "inputs"
    UNKNOWN = "unknown"


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A call with the ids of its path, decoded: the stack's, then the execution's or element's."""

    route: Route
    ids: tuple[str, ...]


_ROUTES: Final = {
    "POST /v2/stacks": Route.CREATE_STACK,
    "GET /v2/stacks": Route.LIST_STACKS,
    "GET /v2/stacks/*": Route.GET_STACK,
    "DELETE /v2/stacks/*": Route.DELETE_STACK,
    "PUT /v2/stacks/*/actions": Route.RUN_LIFECYCLE,
    "GET /v2/stacks/*/actions": Route.LIST_EXECUTIONS,
    "GET /v2/stacks/*/actions/*": Route.GET_EXECUTION,
    "GET /v2/stacks/*/elements": Route.LIST_ELEMENTS,
    "GET /v2/stacks/*/elements/*": Route.GET_ELEMENT,
    "GET /v2/stacks/*/outputs": Route.OUTPUTS,
    "GET /v2/stacks/*/inputs": Route.INPUTS,
}
# Places of the ids among the segments of a path, the empty one before the first slash included.
_ID_PLACES: Final = (3, 5)


def path_of(target: str) -> str:
    """Return the path of a request target as it was sent, without the query (RFC 9112 section 3.2)."""
    path = target.partition("?")[0]
    if "://" in path and not path.startswith("/"):
        _, slash, rest = path.partition("://")[2].partition("/")
        return slash + rest
    return path


def match(method: str, path: str) -> Match:
    """Return the call that a request means; HEAD is the same call as GET.

    Args:
        method: as sent.
        path: as sent, percent-encoded.
    """
    segments = path.split("/")
    ids = tuple(unquote(segments[place]) for place in _ID_PLACES if place < len(segments))
    shape = "/".join("*" if place in _ID_PLACES else segment for place, segment in enumerate(segments))
    route = _ROUTES.get(f"{'GET' if method == 'HEAD' else method} {shape}", Route.UNKNOWN)
    return Match(route=route, ids=ids)
