"""A token in a file that somebody else renews."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.config.address import VISIBLE
from gateway.config.model import Config
from gateway.core.http.messages import Fields
from gateway.errors import NoCredentials

_FIELD = b"X-Auth-Token"
_MOST_BYTES = 65_536
_RETRY_S = 1.0

Stamp = tuple[int, int, int, int]


class TokenFile:
    """Reads the file again when it changes; what cannot be used leaves the token before it in use.

    ``host`` tells this machine's file from one of the same name elsewhere.
    """

    needs_body: Final = False

    def __init__(self, config: Config, tell: Callable[[str, str], None], host: str) -> None:
        self._tell = tell
        self._host = host
        self._token = b""
        # Of the file when it was last read; None before, and when it could not be.
        self._stamp: Stamp | None = None
        self._has_failed = False
        self._path = config.credentials.token_file

    @property
    def since_s(self) -> float | None:
        return self._stamp[3] / 1e9 if self._stamp is not None and self._token else None

    @property
    def is_unavailable(self) -> bool:
        return self._has_failed and not self._token

    def description(self) -> tuple[str, ...]:
        # A path alone says nothing of whose the tokens are: another gateway's file may have the same one.
        return ("token-file", self._path, self._host)

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        await self._read_if_changed(self._stamp)
        if not self._token:
            raise NoCredentials("the token file holds no token", _RETRY_S)
        return ((_FIELD, self._token),)

    async def renew(self, refused: Fields) -> bool:
        # Its writer may have been so quick that the stamp is the same.
        await self._read_if_changed(None)
        return bool(self._token) and (_FIELD, self._token) not in refused

    def change(self, config: Config) -> None:
        if self._path != config.credentials.token_file:
            self._path, self._token = config.credentials.token_file, b""
        self._stamp = None

    async def close(self) -> None:
        pass

    async def _read_if_changed(self, known: Stamp | None) -> None:
        path = self._path
        stamp, token, why = None, None, "holds no token in one line of printable ASCII"
        try:
            found = os.stat(path)
            stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
            if stamp == known:
                return
            token = await asyncio.to_thread(_read, path)
        except OSError as error:
            stamp, why = None, error.strerror or "no valid path"
        if path != self._path:
            return
        has_failed, self._has_failed, self._stamp = self._has_failed, token is None, stamp
        if token is None:
            if not has_failed:
                self._tell("failed", f"token file: {why}")
        elif token != self._token or has_failed:
            self._token = token
            self._tell("renewed", "")


def _read(path: str) -> bytes | None:
    with Path(path).open("rb") as file:
        token = file.read(_MOST_BYTES + 1).strip()
    is_usable = 0 < len(token) <= _MOST_BYTES and VISIBLE.fullmatch(token.decode("latin-1"))
    return token if is_usable else None
