"""The twin's API: from a request to a response."""

import asyncio
import gzip
import logging
from typing import Final, assert_never

import msgspec
from aiohttp import web

from gateway.twin import element_records, records, replies, requests, stack_records
from gateway.twin.body import read_body
from gateway.twin.delivery import deliver
from gateway.twin.effects import Facts
from gateway.twin.model import Refusal, RefusedError
from gateway.twin.replies import Reply
from gateway.twin.routes import Match, Route, has_bad_id, match, path_of
from gateway.twin.stack import Execution, Lifecycle, Order, Stack
from gateway.twin.tokens import project_of, user_of
from gateway.twin.world import World

_LISTED_EXECUTIONS: Final = 10
_REFUSALS: Final = {
    Refusal.NAME_TAKEN: replies.older_aos_error(
        400,
        "02030008",
        "The request body is invalid, please check. Error: The stack name is already existed.",
    ),
    Refusal.TOO_MANY_STACKS: replies.bad_request(
        "The number of stacks has reached its limit.", "SVCSTG.AOS.4000011"
    ),
    Refusal.BUSY: replies.bad_request("The stack is executing another lifecycle.", "SVCSTG.AOS.4000011"),
    Refusal.IDLE: replies.bad_request("The stack executes no lifecycle.", "SVCSTG.AOS.4000011"),
}
_TOO_LARGE: Final = replies.bad_request("The request body is too large.", "SVCSTG.AOS.4001101")


class Api:
    """Responds to the calls of AOS from a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request, with the effects of waiting faults."""
        world = self._world
        path = path_of(request.raw_path)
        found = match(request.method, path)
        request_id = world.next_request_id()
        world.received[found.route] += 1
        tokens = request.headers.getall("X-Auth-Token", [])
        token = tokens[0] if len(tokens) == 1 else ""
        facts = Facts(
            method=request.method,
            path=path,
            user=user_of(token) if token else "",
            peer=request.remote or "",
            request_id=request_id,
        )
        effects = world.faults.take(facts, world.clock.now_s())
        body = await read_body(request, world.profile.max_body_bytes)
        delay_s = effects.delay_s + world.latency_s()
        if delay_s:
            await asyncio.sleep(delay_s)
        reply = effects.reply or self._answer(request, found, token, body, request_id)
        world.answered[found.route, reply.status] += 1
        return await deliver(request, reply, effects, request_id, closes=body is None)

    def _answer(
        self, request: web.BaseRequest, found: Match, token: str, body: bytes | None, request_id: str
    ) -> Reply:
        """Return the model's response, or the error for a wrong request."""
        if found.route is Route.UNKNOWN:
            return replies.unknown_api(request_id)
        if not token:
            return replies.unauthorized(request_id, "x-auth-token not found")
        if token in self._world.revoked:
            return replies.unauthorized(request_id, "decrypt token fail")
        if has_bad_id(found):
            return replies.bad_request("An id must be 1 to 64 characters long.")
        if body is None:
            return _TOO_LARGE
        try:
            return self._called(request, found, project_of(token), body)
        except requests.BadBodyError as exc:
            return replies.bad_request(str(exc))
        except RefusedError as exc:
            return _REFUSALS[exc.why]
        except Exception as exc:
            # Only the type: a message could contain what the caller sent.
            logging.getLogger("gateway.twin").error("twin: %s in %s", type(exc).__name__, found.route.value)
            return replies.server_error()

    def _called(self, request: web.BaseRequest, found: Match, project: str, body: bytes) -> Reply:
        world, now_s = self._world, self._world.clock.now_s()
        match found.route:
            case Route.CREATE_STACK:
                return self._create_stack(project, body, now_s)
            case Route.LIST_STACKS:
                return self._list_stacks(project, request.query.get("project_id", project), now_s)
            case _:
                stack = world.model.stack(project, found.stack_id, now_s)
        if stack is None:
            return replies.not_found()
        match found.route:
            case Route.GET_STACK:
                return self._ok(stack_records.single_stack(stack, now_s))
            case Route.DELETE_STACK:
                order = Order(lifecycle=Lifecycle.DELETE)
                force = requests.read_flag("force", request.query.get("force"))
                return self._started(world.model.delete(stack, order, now_s, force=force))
            case Route.RUN_LIFECYCLE:
                return self._run_lifecycle(stack, body, now_s)
            case Route.LIST_EXECUTIONS:
                count = 1 if requests.read_flag("last", request.query.get("last")) else _LISTED_EXECUTIONS
                found_executions = stack.newest(count)
                return self._ok(
                    [records.listed(stack, one, now_s, world.profile) for one in found_executions]
                )
            case Route.GET_EXECUTION:
                execution = stack.executions.get(found.item_id)
                return self._record(request, stack, execution, now_s) if execution else replies.not_found()
            case Route.LIST_ELEMENTS:
                return self._ok(element_records.elements(stack, now_s))
            case Route.GET_ELEMENT:
                element = element_records.element(stack, found.item_id, now_s)
                return self._ok(element) if element else replies.not_found()
            case Route.OUTPUTS:
                return self._ok(element_records.outputs(stack, now_s))
            case Route.INPUTS:
                return self._ok(element_records.inputs(stack))
            case Route.UNKNOWN:
                return replies.not_found()
            case _ as never:
                assert_never(never)

    def _ok(self, value: records.Json | list[records.Json], status: int = 200) -> Reply:
        return replies.json_reply(status, value, compact=self._world.profile.compact)

    def _started(self, execution: Execution) -> Reply:
        return self._ok({"action_id": execution.name, "last_action_id": execution.last_action_id})

    def _create_stack(self, project: str, body: bytes, now_s: float) -> Reply:
        new, order = requests.read_new_stack(body, project)
        stack = self._world.model.create_stack(project, new, now_s)
        if order is not None:
            self._world.model.start(stack, order, now_s)
        return self._ok(stack_records.created(stack), 201)

    def _list_stacks(self, project: str, wanted: str, now_s: float) -> Reply:
        """List the newest stacks; of another project the caller sees none."""
        stacks = self._world.model.stacks(project, now_s) if wanted == project else []
        newest = stacks[: -self._world.profile.max_listed_stacks - 1 : -1]
        return self._ok([stack_records.listed_stack(stack, now_s) for stack in newest])

    def _run_lifecycle(self, stack: Stack, body: bytes, now_s: float) -> Reply:
        model = self._world.model
        order = requests.read_order(body)
        if order is None:
            return self._started(model.cancel(stack, now_s))
        if order.lifecycle is Lifecycle.DELETE:
            return self._started(model.delete(stack, order, now_s, force=False))
        return self._started(model.start(stack, order, now_s))

    def _record(self, request: web.BaseRequest, stack: Stack, execution: Execution, now_s: float) -> Reply:
        profile = self._world.profile
        reply = self._ok(records.single(stack, execution, now_s, profile))
        if profile.gzip_min_bytes is None or len(reply.body) < profile.gzip_min_bytes:
            return reply
        if not _accepts_gzip(request.headers.getall("Accept-Encoding", [])):
            return msgspec.structs.replace(reply, headers=(("Vary", "Accept-Encoding"),))
        # mtime 0: the same record has the same bytes.
        return msgspec.structs.replace(
            reply,
            body=gzip.compress(reply.body, compresslevel=1, mtime=0),
            headers=(("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")),
        )


def _accepts_gzip(fields: list[str]) -> bool:
    """Tell whether gzip is named with a weight above zero (RFC 9110 section 12.5.3)."""
    for item in ",".join(fields).lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
