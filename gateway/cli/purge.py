"""The client of `POST /purge` on the admin address."""

import contextlib
import http.client
import json
import socket
import sys
from typing import Final

from gateway.config.address import Address, UnixAddress
from gateway.config.errors import one_line
from gateway.config.secret import Secret

_TIMEOUT_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 65_536


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket; its Host is localhost."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def run(address: Address, stack_id: str, token: Secret) -> int:
    """Ask a running gateway to make a stack's stored entries unusable, and print one line.

    Args:
        address: the gateway's admin address.
        stack_id: the stack; see `route.is_id`.
        token: the gateway's `server.admin_token`; empty to send none.

    Returns:
        The exit code: 0 when the stack is forgotten, 1 when not or when that is unknown.
    """
    try:
        status, body = _post(address, stack_id, token)
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "strerror", None) or (
            "no answer in time" if isinstance(exc, TimeoutError) else ""
        )
        return _failed(
            f"cannot purge over {address}: {reason or type(exc).__name__}; "
            "--admin has to be the gateway's server.admin_listen"
        )
    match status, _members(body):
        case 200, {"forgotten": True}:
            print(one_line(f"forgotten: every stored entry of stack {stack_id}"))
            return 0
        case 401, _:
            return _failed(
                "not allowed to purge (401); set AOS_GATEWAY_SERVER__ADMIN_TOKEN to the gateway's own value"
            )
        case _, {"message": str(message)}:
            return _failed(f"not purged ({status}): {message[:200]}")
        case _:
            return _failed(f"not purged ({status}): the answer is not the gateway's; check --admin")


def _post(address: Address, stack_id: str, token: Secret) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token.reveal()}"
    connection = (
        _UnixConnection(address.path)
        if isinstance(address, UnixAddress)
        else http.client.HTTPConnection(address.host or "localhost", address.port, timeout=_TIMEOUT_S)
    )
    with contextlib.closing(connection):
        connection.request(
            "POST", "/purge", body=json.dumps({"stack_id": stack_id}).encode(), headers=headers
        )
        response = connection.getresponse()
        return response.status, response.read(_MAX_ANSWER_BYTES)


def _members(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _failed(line: str) -> int:
    print(one_line(f"aos-gateway: {line}"), file=sys.stderr)
    return 1
