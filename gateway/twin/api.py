"""The twin's API: from a request to a response."""

import asyncio
import gzip
import logging
from typing import Final, assert_never

import msgspec
from aiohttp import web

from gateway.twin import element_records, records, replies, requests, stack_records
from gateway.twin.fault_book import Facts
from gateway.twin.model import NameTakenError, RefusedError
from gateway.twin.records import Json, dump
from gateway.twin.replies import Reply
from gateway.twin.routes import Match, Route, match, path_of
from gateway.twin.signatures import Signed, UnauthorizedError, access_key_of, check
from gateway.twin.stack import Execution, Lifecycle, Order, Stack
from gateway.twin.tokens import digest
from gateway.twin.wire import deliver, read_body
from gateway.twin.world import World

MAX_BODY_BYTES: Final = 1_048_576
_MAX_LISTED_STACKS: Final = 100
_LISTED_EXECUTIONS: Final = 10
# Records from this size on are sent as gzip if that is accepted.
_GZIP_MIN_BYTES: Final = 512


class Api:
    """Responds to the calls of AOS and IAM from a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request, with the effects of waiting faults."""
        world = self._world
        path = path_of(request.raw_path)
        found = match(request.method, path)
        signer = access_key_of(request.raw_headers)
        request_id = world.next_request_id()
        world.received[found.route.label] += 1
        tokens = request.headers.getall("X-Auth-Token", [])
        token = tokens[0] if len(tokens) == 1 else ""
        facts = Facts(
            method=request.method,
            path=path,
            user=digest(signer) if signer else world.iam.counted_as(token) if token else "",
            peer=request.remote or "",
            request_id=request_id,
        )
        effects = world.faults.take(facts, world.clock.now_s())
        body = await read_body(request, MAX_BODY_BYTES)
        delay_s = effects.delay_s + world.latency_s()
        if delay_s:
            await asyncio.sleep(delay_s)
        reply = effects.reply or self._answer(request, found, token, body, request_id)
        world.answered[found.route.label, reply.status] += 1
        response = await deliver(request, reply, effects, request_id)
        if body is None:
            response.force_close()
        return response

    def _answer(
        self, request: web.BaseRequest, found: Match, token: str, body: bytes | None, request_id: str
    ) -> Reply:
        """Return IAM's or the model's response, or the error for a wrong request."""
        iam, now_s = self._world.iam, self._world.clock.wall_s()
        query = request.raw_path.partition("?")[2]
        match found.route:
            case Route.UNKNOWN:
                return replies.unknown_api(request_id)
            case Route.CREATE_TOKEN:
                return iam.log_in(body, query, now_s)
            case Route.VERIFY_TOKEN:
                return iam.verify(token, request.headers.getall("X-Subject-Token", []), query, now_s)
        try:
            project = self._project(request, token, body, now_s)
        except UnauthorizedError as exc:
            return replies.unauthorized(request_id, str(exc))
        if any(not 1 <= len(each) <= 64 for each in found.ids):
            # API page aos_02_0033, table 1.
            return replies.bad_request("An id must be 1 to 64 characters long.")
        if body is None:
            return replies.bad_request("The request body is too large.", "SVCSTG.AOS.4001101")
        try:
            return self._called(request, found, project, body)
        except requests.BadBodyError as exc:
            return replies.bad_request(str(exc))
        except NameTakenError as exc:
            return replies.invalid_body(str(exc))
        except RefusedError as exc:
            return replies.bad_request(str(exc), "SVCSTG.AOS.4000011")
        except Exception as exc:
            # Only the type: a message could contain what the caller sent.
            logging.getLogger("gateway.twin").error("twin: %s in %s", type(exc).__name__, found.route.label)
            return replies.SERVER_ERROR

    def _project(self, request: web.BaseRequest, token: str, body: bytes | None, now_s: float) -> str:
        """Return the project that a request may see, or raise `UnauthorizedError` unless it proves any."""
        iam, fields = self._world.iam, request.raw_headers
        if access_key_of(fields) is not None:
            target = request.raw_path.encode("utf-8", "surrogateescape")
            signed = Signed(method=request.method, target=target, fields=fields, body=body or b"")
            key = check(signed, iam.keys, now_s)
            return request.headers.get("X-Project-Id") or key.project
        if not token:
            raise UnauthorizedError("x-auth-token not found")
        grant = iam.grant(token, now_s)
        if grant is None:
            raise UnauthorizedError("decrypt token fail")
        if grant.project is None:
            raise UnauthorizedError("the token is for no project")
        return grant.project

    def _called(self, request: web.BaseRequest, found: Match, project: str, body: bytes) -> Reply:
        world, now_s = self._world, self._world.clock.now_s()
        match found.route:
            case Route.CREATE_STACK:
                return self._create_stack(project, body, now_s)
            case Route.LIST_STACKS:
                return self._list_stacks(project, request.query.get("project_id", project), now_s)
            case _:
                stack = world.model.stack(project, found.ids[0], now_s)
        if stack is None:
            return replies.NOT_FOUND
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
                newest = stack.newest(count)
                return self._ok([records.listed(stack, each, now_s, world.profile) for each in newest])
            case Route.GET_EXECUTION:
                execution = stack.executions.get(found.ids[1])
                return self._record(request, stack, execution, now_s) if execution else replies.NOT_FOUND
            case Route.LIST_ELEMENTS:
                return self._ok(element_records.elements(stack, now_s))
            case Route.GET_ELEMENT:
                element = element_records.element(stack, found.ids[1], now_s)
                return self._ok(element) if element else replies.NOT_FOUND
            case Route.OUTPUTS:
                return self._ok(element_records.outputs(stack, now_s))
            case Route.INPUTS:
                return self._ok(element_records.inputs(stack))
            case Route.UNKNOWN | Route.CREATE_TOKEN | Route.VERIFY_TOKEN:
                return replies.NOT_FOUND
            case _ as never:
                assert_never(never)

    def _ok(self, value: Json | list[Json], status: int = 200) -> Reply:
        return Reply(status=status, body=dump(value, compact=self._world.profile.compact))

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
        newest = stacks[: -_MAX_LISTED_STACKS - 1 : -1]
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
        reply = self._ok(records.single(stack, execution, now_s, self._world.profile))
        if len(reply.body) < _GZIP_MIN_BYTES:
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
