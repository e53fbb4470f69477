"""An AOS whose records change with each write, and what of it an answer may show."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.testbed.answers import Answer, Conversation, Received
from tests.testbed.payloads import record
from tests.testbed.response import RawResponse

TENANTS = [f"tenant-{number}" for number in range(6)]
STACKS = [f"stack-{number}" for number in range(32)]
WRITTEN = STACKS[::2]
"""The stacks that are written to."""

SETTLED = ["common-0", "own-0", "common-1", "own-1"]
"""Actions that are over: half of the records are equal for all tenants, half carry their owner."""

RUNNING = "own-running"
KEPT_STACK = "stack-kept"
"""Nobody asks for its records in between: what was stored stays stored, as long as it may."""

BIG_STACK = STACKS[1]
"""Its records are longer than what a socket or a proxy takes at once."""

ACCESS_TTL_S = 10.0
MEMORY_TTL_S = 6.0
"""Long beside the second in which replicas send each other an invalidation, so that it shows when they don't."""

UNSETTLED_S = 3.0

_UPSTREAM_S = 0.002
# For a machine that is busy with something else; counted from the ends that the design gives.
_SLACK_S = 0.5
_MESSAGE_S = 1.0
_SLACK_BETWEEN_REPLICAS_S = 1.5
_PADDING = "x" * 40_000
_TARGET = re.compile(r"/v2/stacks/([\w-]+)(?:/actions/([\w-]+))?")
_MARKS = re.compile(rb'"version": (\d+)')


def token(tenant: str) -> str:
    """The token of a tenant; long enough to be found wherever it leaks."""
    return f"secret-token-of-{tenant}-0123456789abcdef"


_BY_TOKEN = {token(tenant).encode(): tenant for tenant in TENANTS}


@dataclass
class Change:
    """One write that took effect.

    Attributes:
        came_s: when it did.
        replica: through which it came.
        answered_s: when its caller had an answer; None while he waits.
    """

    came_s: float
    replica: int
    answered_s: float | None = None


@dataclass
class MixedAos:
    """What the scripted AOS has, the writes that reached it, and the rules that answers must keep.

    Attributes:
        now_s: the clock of the test.
        is_calm: whether Redis has been well from one moment to another.
        revoked: the tenant whose token is refused, and since when.
        writes: how often each write was received.
        wrong: what broke a rule, in words.
    """

    now_s: Callable[[], float]
    is_calm: Callable[[float, float], bool]
    revoked: tuple[str, float] | None = None
    writes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _changes: dict[str, list[Change]] = field(
        default_factory=lambda: {stack: [] for stack in (*STACKS, KEPT_STACK)}
    )
    _by_write: dict[str, Change] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)
    _templates: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def body(self, stack: str, action: str, tenant: str, version: int) -> bytes:
        """The one right body of a record in one version."""
        made = self._templates.get((stack, action))
        if made is None:
            phase = "Running" if action == RUNNING else "Succeeded"
            marks = {"stack": stack, "version": 424242, "owner": "OWNER"}
            padding = _PADDING if stack == BIG_STACK else ""
            made = record(phase, name=action, unknownField=marks, padding=padding)
            self._templates[stack, action] = made
        owner = tenant if action.startswith("own") else "all"
        return made.replace(b"424242", b"%d" % version).replace(b"OWNER", owner.encode())

    async def answer(self, received: Received, conversation: Conversation) -> None:
        """Answer one request as AOS would."""
        replica = int((received.get("X-Through") or b"0").decode())
        fits = _TARGET.fullmatch(received.target)
        tenant = _BY_TOKEN[received.get("X-Auth-Token") or b""]
        assert fits is not None
        stack, action = fits.groups()
        if self.revoked is not None and self.revoked[0] == tenant:
            await conversation.answer(Answer(401, body=b'{"code": "token"}'))
            return
        fields = [("Content-Type", "application/json"), ("X-Tenant", tenant)]
        if received.method in {"PUT", "DELETE"}:
            self._take(stack, replica, (received.get("X-Write") or b"").decode())
            await conversation.answer(Answer(202, headers=fields, body=b"{}"))
            return
        version = len(self._changes[stack])
        await asyncio.sleep(_UPSTREAM_S)
        if action is None:
            body = json.dumps({"stack": stack, "version": version}).encode()
        else:
            body = self.body(stack, action, tenant, version)
        await conversation.answer(Answer(headers=fields, body=body))

    def _take(self, stack: str, replica: int, write: str) -> None:
        self.writes[write] += 1
        if self.writes[write] > 1:
            self.wrong.append(f"{write} was received again")
        # A stalled connection may bring it long after its caller got a 504.
        change = Change(self.now_s(), replica, self._answered.get(write))
        self._changes[stack].append(change)
        self._by_write[write] = change

    def answered(self, write: str) -> None:
        """Record that the caller of a write has its answer, whatever it is."""
        self._answered[write] = self.now_s()
        if (change := self._by_write.pop(write, None)) is not None:
            change.answered_s = self._answered[write]

    def check_record(
        self, response: RawResponse, stack: str, action: str, tenant: str, replica: int, began_s: float
    ) -> None:
        """Record what is wrong with a 200 for a record that was asked for at `began_s`."""
        where = f"{tenant} {stack}/{action} at {began_s:.2f} s"
        found = _MARKS.search(response.body)
        version = int(found[1]) if found else -1
        changes = self._changes[stack]
        if not 0 <= version <= len(changes) or response.body != self.body(stack, action, tenant, version):
            self.wrong.append(f"{where}: a wrong body of {len(response.body)} bytes")
        if response.get("X-Tenant") != tenant.encode():
            self.wrong.append(f"{where}: what was sent to {response.get('X-Tenant')!r}")
        is_running = action == RUNNING
        if is_running and b"; hit" in response.all("Cache-Status")[-1]:
            self.wrong.append(f"{where}: a record in progress was stored")
        self._check_revoked(where, tenant, began_s, ACCESS_TTL_S + _SLACK_S)
        for newer in changes[max(version, 0) :]:
            late_s = began_s - self._usable_until_s(newer, replica, began_s, is_running=is_running)
            if late_s > 0:
                self.wrong.append(
                    f"{where} through {replica}: version {version} of {len(changes)}, {late_s:.2f} s late; {newer}"
                )
                return

    def check_stack(self, response: RawResponse, stack: str, tenant: str, began_s: float) -> None:
        """Record what is wrong with a 200 for a stack, which is never stored."""
        where = f"{tenant} {stack} at {began_s:.2f} s"
        content = response.json()
        if content["stack"] != stack or response.get("X-Tenant") != tenant.encode():
            self.wrong.append(f"{where}: {content} sent to {response.get('X-Tenant')!r}")
        if any(change.came_s < began_s for change in self._changes[stack][content["version"] :]):
            self.wrong.append(f"{where}: an old version")
        self._check_revoked(where, tenant, began_s, 0.0)

    def check_write(self, stack: str, tenant: str, began_s: float) -> None:
        """Record what is wrong with a write that was accepted."""
        self._check_revoked(f"{tenant} writes to {stack} at {began_s:.2f} s", tenant, began_s, 0.0)

    def is_over(self, now_s: float) -> bool:
        """Whether nothing sent to the revoked tenant may be repeated any more."""
        return self.revoked is not None and now_s > self.revoked[1] + ACCESS_TTL_S + _SLACK_S

    def _check_revoked(self, where: str, tenant: str, began_s: float, grace_s: float) -> None:
        if self.revoked is not None and self.revoked[0] == tenant and began_s > self.revoked[1] + grace_s:
            self.wrong.append(f"{where}: {began_s - self.revoked[1]:.2f} s after the token was revoked")

    def _usable_until_s(self, newer: Change, replica: int, began_s: float, *, is_running: bool) -> float:
        """Until when a request may begin that is answered with the version before a change."""
        bounds_s = [newer.came_s + ACCESS_TTL_S + _SLACK_S]
        if is_running:
            # Nothing but a flight that was under way may still hold it.
            bounds_s.append(newer.came_s + MEMORY_TTL_S + _SLACK_S)
        if newer.answered_s is not None:
            if newer.came_s > newer.answered_s:
                # The gateway had given up waiting before AOS did it.
                if newer.replica == replica:
                    bounds_s.append(newer.came_s + UNSETTLED_S + _SLACK_S)
            elif newer.replica == replica:
                bounds_s.append(newer.answered_s)
            elif self.is_calm(newer.came_s, began_s):
                bounds_s.append(newer.answered_s + _MESSAGE_S + _SLACK_BETWEEN_REPLICAS_S)
        return min(bounds_s)
