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
    """A call with the ids of its path, decoded; "" where it has none."""

    route: Route
    stack_id: str = ""
    item_id: str = ""


# Path segments after /v2/stacks; None stands for an id.
_ROUTES: Final[dict[tuple[str, tuple[str | None, ...]], Route]] = {
    ("POST", ()): Route.CREATE_STACK,
    ("GET", ()): Route.LIST_STACKS,
    ("GET", (None,)): Route.GET_STACK,
    ("DELETE", (None,)): Route.DELETE_STACK,
    ("PUT", (None, "actions")): Route.RUN_LIFECYCLE,
    ("GET", (None, "actions")): Route.LIST_EXECUTIONS,
    ("GET", (None, "actions", None)): Route.GET_EXECUTION,
    ("GET", (None, "elements")): Route.LIST_ELEMENTS,
    ("GET", (None, "elements", None)): Route.GET_ELEMENT,
    ("GET", (None, "outputs")): Route.OUTPUTS,
    ("GET", (None, "inputs")): Route.INPUTS,
}
_STACKS: Final = ["", "v2", "stacks"]
# Places of the two ids among the segments after /v2/stacks.
_STACK, _ITEM = 0, 2


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
    if segments[:3] != _STACKS:
        return Match(route=Route.UNKNOWN)
    rest = segments[3:]
    shape = tuple(None if place in (_STACK, _ITEM) else segment for place, segment in enumerate(rest))
    route = _ROUTES.get(("GET" if method == "HEAD" else method, shape), Route.UNKNOWN)
    ids = [unquote(segment) for segment in rest]
    return Match(
        route=route,
        stack_id=ids[_STACK] if len(ids) > _STACK else "",
        item_id=ids[_ITEM] if len(ids) > _ITEM else "",
    )


def has_bad_id(found: Match) -> bool:
    """Tell whether an id of the path is not 1 to 64 characters long (API page aos_02_0033, table 1)."""
    places = {
        Route.CREATE_STACK: (),
        Route.LIST_STACKS: (),
        Route.GET_EXECUTION: (found.stack_id, found.item_id),
        Route.GET_ELEMENT: (found.stack_id, found.item_id),
        Route.UNKNOWN: (),
    }.get(found.route, (found.stack_id,))
    return any(not 1 <= len(text) <= 64 for text in places)
