"""The control address: shows the twin's state and makes it misbehave. JSON in, JSON out.

GET    /state       counts, waiting faults, time
GET    /executions  project, stack, action and phase of at most 1000 (?limit=) records, newest stacks first
POST   /faults      one fault, such as {"kind": "status", "status": 503, "count": 5} (see `faults`); as
                    Huawei's gateway throttles: {"kind": "throttle", "limit": 200, "window_s": 300}
DELETE /faults      removes all faults, and the throttles of the profile
POST   /clock       {"advance_s": 60}, {"frozen": true} or both
POST   /revoke      {"token": "..."}: answered with 401 from now on
POST   /users       {"name": "alice", "password": "...", "roles": [...]}: who can log in, and what IAM says of
                    "project-a:alice" (see `iam.User`); tokens issued to her before are refused
POST   /keys        {"access_key": "...", "secret_key": "..."}: whose signatures are right (`signatures.Key`)
POST   /tokens      {"issued_only": true}: only tokens that IAM has issued, and signatures, are accepted
POST   /outcome     {"outcome": "Failed", "count": 2, "duration_s": 3}: how the next executions end
POST   /reset       back to the start
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway.config.address import is_loopback_host
from gateway.twin.fault_book import MAX_FAULTS, TooManyFaultsError
from gateway.twin.faults import KINDS, Fault
from gateway.twin.iam import User
from gateway.twin.records import Json, rfc3339_micro
from gateway.twin.requests import MAX_DURATION_S, BadBodyError, outcome_of
from gateway.twin.signatures import Key
from gateway.twin.stack import Ending
from gateway.twin.wire import read_body
from gateway.twin.world import World

_MAX_BODY_BYTES: Final = 65_536
_MAX_LISTED: Final = 1_000
# Ten years: a jump must not leave the calendar.
_Jump = Annotated[float, msgspec.Meta(ge=0, le=315_360_000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Duration = Annotated[float, msgspec.Meta(gt=0, le=MAX_DURATION_S)]
_FAULT: Final[msgspec.json.Decoder[Fault]] = msgspec.json.Decoder(Fault)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")


class _Clock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    advance_s: _Jump = 0.0
    frozen: bool | None = None


class _Revoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: Annotated[str, msgspec.Meta(min_length=1)]


class _Tokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issued_only: bool


class _Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    outcome: str | None = None
    count: _Count = 1
    duration_s: _Duration | None = None


class Control:
    """Responds to the calls on the control address."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[str, Callable[[bytes, str], Any]] = {
            "GET /state": self._state,
            "GET /executions": self._executions,
            "POST /faults": self._add_fault,
            "DELETE /faults": self._clear_faults,
            "POST /clock": self._move_clock,
            "POST /revoke": self._revoke,
            "POST /users": self._put_user,
            "POST /keys": self._put_key,
            "POST /tokens": self._accept_tokens,
            "POST /outcome": self._force_outcome,
            "POST /reset": self._reset,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not _is_local(request):
            return _response(
                403, {"error": "the control address is not for web pages: use a loopback Host, no Origin"}
            )
        path, _, query = request.raw_path.partition("?")
        call = self._calls.get(f"{request.method} {path}")
        if call is None:
            return _response(404, {"error": f"unknown call; there are {', '.join(self._calls)}"})
        body = await read_body(request, _MAX_BODY_BYTES)
        if body is None:
            response = _response(413, {"error": f"the body is larger than {_MAX_BODY_BYTES} bytes"})
            response.force_close()
            return response
        try:
            return _response(200, call(body, query))
        except (BadBodyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return _response(400, {"error": str(exc)})
        except TooManyFaultsError:
            return _response(409, {"error": f"{MAX_FAULTS} faults wait already; DELETE /faults first"})

    def _state(self, _body: bytes, _query: str) -> Json:
        world, now_s = self._world, self._world.clock.now_s()
        stacks = world.model.all_stacks(now_s)
        executions = [execution for stack in stacks for execution in stack.executions.values()]
        answered: dict[str, dict[str, int]] = {}
        for (route, status), count in sorted(world.answered.items()):
            answered.setdefault(route, {})[str(status)] = count
        return {
            "profile": world.profile.name,
            "seed": world.seed,
            "now": rfc3339_micro(now_s),
            "frozen": world.clock.is_frozen,
            "projects": len({stack.project for stack in stacks}),
            "stacks": len(stacks),
            "executions": len(executions),
            "under_way": sum(execution.is_under_way(now_s) for execution in executions),
            "faults": [msgspec.to_builtins(fault) for fault in world.faults.waiting(now_s)],
            "forced_outcomes": len(world.model.forced),
            "users": len(world.iam.users),
            "access_keys": len(world.iam.keys),
            "issued_tokens": world.iam.issued,
            "issued_only": world.iam.issued_only,
            "revoked_tokens": len(world.iam.revoked),
            "received": dict(sorted(world.received.items())),
            "answered": answered,
        }

    def _executions(self, _body: bytes, query: str) -> list[Json]:
        match = re.fullmatch(r"(limit=(?P<limit>[0-9]{1,9}))?", query)
        if match is None:
            raise BadBodyError("the only query parameter is limit, a number")
        limit = min(int(match["limit"] or _MAX_LISTED), _MAX_LISTED)
        now_s = self._world.clock.now_s()
        rows: list[Json] = []
        for stack in reversed(self._world.model.all_stacks(now_s)):
            for execution in stack.newest(limit - len(rows)):
                row = {"project": stack.project, "stack_id": stack.guid, "action_id": execution.name}
                rows.append({**row, "phase": execution.view(now_s).phase.value})
        return rows

    def _add_fault(self, body: bytes, _query: str) -> Json:
        try:
            fault = _FAULT.decode(body)
        except msgspec.ValidationError as exc:
            raise BadBodyError(
                f"{exc}; a fault has a kind ({', '.join(KINDS)}) and that kind's fields"
            ) from exc
        self._world.faults.add(fault, self._world.clock.now_s())
        return {"added": msgspec.to_builtins(fault)}

    def _clear_faults(self, _body: bytes, _query: str) -> Json:
        self._world.faults.clear()
        return {"faults": []}

    def _move_clock(self, body: bytes, _query: str) -> Json:
        wanted, clock = msgspec.json.decode(body or b"{}", type=_Clock), self._world.clock
        if wanted.frozen is not None:
            (clock.freeze if wanted.frozen else clock.thaw)()
        clock.advance(wanted.advance_s)
        return {"now": rfc3339_micro(clock.now_s()), "frozen": clock.is_frozen}

    def _revoke(self, body: bytes, _query: str) -> Json:
        return {"revoked": self._world.iam.revoke(msgspec.json.decode(body or b"{}", type=_Revoke).token)}

    def _put_user(self, body: bytes, _query: str) -> Json:
        user = msgspec.json.decode(body or b"{}", type=User)
        self._world.iam.put_user(user)
        return {"domain": user.domain, "name": user.name}

    def _put_key(self, body: bytes, _query: str) -> Json:
        key = msgspec.json.decode(body or b"{}", type=Key)
        self._world.iam.put_key(key)
        return {"access_key": key.access_key, "project": key.project}

    def _accept_tokens(self, body: bytes, _query: str) -> Json:
        self._world.iam.issued_only = msgspec.json.decode(body or b"{}", type=_Tokens).issued_only
        return {"issued_only": self._world.iam.issued_only}

    def _force_outcome(self, body: bytes, _query: str) -> Json:
        wanted = msgspec.json.decode(body or b"{}", type=_Outcome)
        outcome = None if wanted.outcome is None else outcome_of(wanted.outcome)
        ending = Ending(outcome=outcome, duration_s=wanted.duration_s)
        self._world.model.forced = [ending] * wanted.count
        return {"forced_outcomes": wanted.count}

    def _reset(self, body: bytes, query: str) -> Json:
        self._world.reset()
        return self._state(body, query)


def _is_local(request: web.BaseRequest) -> bool:
    """Tell whether the request is not from a web page: DNS rebinding shows in Host, a page in Origin."""
    host = _HOST.fullmatch(request.headers.get("Host", "localhost"))
    return host is not None and is_loopback_host(host["name"].strip("[]")) and "Origin" not in request.headers


def _response(status: int, value: Json | list[Json]) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=body, content_type="application/json")
