"""Tokens that IAM gives out for a password, renewed before they end."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Final

from gateway.clock import Clock
from gateway.config.address import VISIBLE
from gateway.config.model import Config
from gateway.core.aos.iam_token import token_owner
from gateway.core.http.messages import Fields
from gateway.errors import NoCredentials
from gateway.iam.client import IamAnswer, IamClient, IamError
from gateway.tasks import TaskSet

_FIELD = b"X-Auth-Token"
_RENEWED_AFTER = 0.8
_SHORTEST_S = 1.0
# Between two renewals because of a 401.
_BETWEEN_S = 30.0
# The first pause after a failure, doubled with each further one, and the longest.
_AWAY_S = (1.0, 30.0)
_THROTTLED_S = (60.0, 60.0)
# Accounts are locked after a few wrong passwords.
_REFUSED_S = (60.0, 900.0)
_REFUSALS = frozenset({400, 401, 403, 404})
_UNSHOWN_PIECE = 8
# Whatever is written without a blank for so long may be a secret in another form.
_NO_WORD = re.compile(r"\S{16,}")

_KINDS = {
    "timeout": "IAM does not answer in time",
    "tls": "the TLS connection to IAM fails",
    "unreachable": "IAM cannot be reached",
    "malformed": "IAM's answer cannot be used",
}


class Password:
    """Keeps a token in memory alone, and asks for the next one in time, one question at a time."""

    needs_body: Final = False

    def __init__(
        self, config: Config, iam: IamClient, tell: Callable[[str, str], None], clock: Clock
    ) -> None:
        self._iam = iam
        self._tell = tell
        self._clock = clock
        self._tasks = TaskSet()
        self._loop = asyncio.get_running_loop()
        self._token = b""
        self._issued_s = 0.0
        # Monotonic times: its end, the next question, and the last one because of a 401.
        self._ends_s = self._next_s = 0.0
        self._refused_s = -math.inf
        # Why the last question gave no token, and the pause since; empty and 0 when it did.
        self._why = ""
        self._pause_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._is_closed = False
        self._config = config
        self._ask()

    @property
    def since_s(self) -> float | None:
        return self._issued_s if self._is_alive else None

    @property
    def is_unavailable(self) -> bool:
        return bool(self._why) and not self._is_alive

    @property
    def _is_alive(self) -> bool:
        return bool(self._token) and self._clock.monotonic_s() < self._ends_s

    def description(self) -> tuple[str, ...]:
        credentials = self._config.credentials
        return ("password", self._config.iam.url, credentials.domain, credentials.user, credentials.project)

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        # The timer does not run while the machine sleeps.
        if self._clock.monotonic_s() >= self._next_s:
            self._ask()
        if not self._is_alive and self._asking is not None:
            await asyncio.shield(self._asking)
        if not self._is_alive:
            raise NoCredentials(self._why, self._next_s - self._clock.monotonic_s())
        return ((_FIELD, self._token),)

    async def renew(self, refused: Fields) -> bool:
        if (_FIELD, self._token) in refused:
            now_s = self._clock.monotonic_s()
            if self._asking is None:
                if now_s < self._refused_s + _BETWEEN_S or (self._pause_s and now_s < self._next_s):
                    return False
                self._refused_s = now_s
            await asyncio.shield(self._ask())
        return self._is_alive and (_FIELD, self._token) not in refused

    def change(self, config: Config) -> None:
        has_changed = config.credentials != self._config.credentials
        self._config = config
        if has_changed or self._why:
            self._ask()

    async def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.cancel()

    def _ask(self) -> asyncio.Task[None]:
        """Ask for another token, unless that is being done."""
        if self._asking is None:
            self._asking = self._tasks.start(self._renew(), "credentials")
        return self._asking

    async def _renew(self) -> None:
        config = None
        try:
            while config is not self._config:
                config = self._config
                try:
                    answer = await self._iam.issue(_question(config))
                except IamError as error:
                    self._fail(_KINDS[error.kind], _AWAY_S)
                else:
                    self._take(answer)
        except Exception:
            self._fail(_KINDS["malformed"], _AWAY_S)
            raise
        finally:
            self._asking = None
            if self._timer is not None:
                self._timer.cancel()
            if not self._is_closed:
                self._timer = self._loop.call_later(self._next_s - self._clock.monotonic_s(), self._ask)

    def _take(self, answer: IamAnswer) -> None:
        now_s = self._clock.wall_s()
        if answer.status == 429:
            self._fail("IAM throttles the gateway", _THROTTLED_S)
        elif answer.status in _REFUSALS:
            self._token = b""
            words = _words(answer.body, self._config.credentials.password.reveal())
            self._pause("IAM refuses them", _REFUSED_S)
            self._tell("refused", f"refused by IAM: {answer.status} {words}")
        elif answer.status != 201:
            self._fail("IAM answers with an error", _AWAY_S)
        elif (
            not (owner := token_owner(answer.body))
            or owner.expires_s <= now_s
            or not answer.token
            or not VISIBLE.fullmatch(answer.token.decode("latin-1"))
        ):
            self._fail(_KINDS["malformed"], _AWAY_S)
        else:
            lives_s = owner.expires_s - now_s
            self._token, self._issued_s = answer.token, now_s
            self._why, self._pause_s = "", 0.0
            began_s = self._clock.monotonic_s()
            self._ends_s = began_s + lives_s
            self._next_s = began_s + max(_SHORTEST_S, _RENEWED_AFTER * lives_s)
            self._tell("renewed", "")

    def _fail(self, why: str, pause_s: tuple[float, float]) -> None:
        self._pause(why, pause_s)
        self._tell("failed", why + ("; the token in use still lives" if self._is_alive else ""))

    def _pause(self, why: str, between_s: tuple[float, float]) -> None:
        first_s, longest_s = between_s
        self._why = why
        self._pause_s = min(longest_s, max(first_s, 2.0 * self._pause_s))
        self._next_s = self._clock.monotonic_s() + self._pause_s


def _question(config: Config) -> bytes:
    """Return the body that asks for a token (API page "Obtaining a user token through password")."""
    of = config.credentials
    user = {"name": of.user, "password": of.password.reveal(), "domain": {"name": of.domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    return json.dumps({"auth": {"identity": identity, "scope": {"project": {"name": of.project}}}}).encode()


def _words(body: bytes, password: str) -> str:
    """Return what IAM says in an error, for the log; not when it repeats a piece of the password.

    In place of what is longer than words are stands ``...``.
    """
    try:
        words = json.loads(body)["error"]["message"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return ""
    size = min(_UNSHOWN_PIECE, len(password))
    pieces = (password[start : start + size] for start in range(len(password) - size + 1))
    is_shown = isinstance(words, str) and not any(piece in words for piece in pieces)
    return _NO_WORD.sub("...", words) if is_shown else ""
