"""The client of `POST /purge` on the admin address."""

import asyncio
import json
from typing import Final

from gateway.cli.arguments import complain
from gateway.cli.client import NoResponseError, Response, connect
from gateway.config.address import Address
from gateway.config.errors import one_line
from gateway.config.secret import Secret

_TIMEOUT_S: Final = 5.0


def run(address: Address, stack_id: str, token: Secret) -> int:
    """Invalidate a stack in a running gateway and print one line; return 0 when that is confirmed, else 1."""
    try:
        response = asyncio.run(_post(address, stack_id, token))
    except NoResponseError as exc:
        return complain(
            f"cannot purge over {address}: {exc}; --admin has to be the gateway's server.admin_listen"
        )
    status = response.status
    match status, _members(response.body):
        case 200, {"forgotten": True}:
            print(one_line(f"invalidated: every stored entry of stack {stack_id}"))
            return 0
        case 401, _:
            return complain(
                "not allowed to purge (401); set AOS_GATEWAY_SERVER__ADMIN_TOKEN to the gateway's own value"
            )
        case _, {"message": str(message)}:
            return complain(f"not purged ({status}): {message[:200]}")
        case _:
            return complain(f"not purged ({status}): the answer is not the gateway's; check --admin")


async def _post(address: Address, stack_id: str, token: Secret) -> Response:
    fields = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
    async with connect(address) as client:
        body = json.dumps({"stack_id": stack_id}).encode()
        return await client.send("POST", "/purge", fields, _TIMEOUT_S, body)


def _members(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
