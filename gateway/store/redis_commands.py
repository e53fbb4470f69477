"""Groups of commands: of a batch of them, each gets its own replies."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gateway.store.redis_errors import StoreError

Command = tuple[bytes | str | int, ...]
CommandGroup = tuple[Sequence[Command], asyncio.Future[list[object]]]


async def send_groups(
    send: Callable[[Sequence[Command]], Awaitable[Sequence[object]]], groups: Sequence[CommandGroup]
) -> None:
    """Send groups of commands of one operation: each of its own would need a connection and a task.

    A group whose outcome is unknown, or of which Redis refused a command, gets a `StoreError`.

    Args:
        send: sends commands in one round trip and returns the replies, errors among them; raises
            `StoreError`.
    """
    kind = "connection"
    replies: list[object] = []
    try:
        replies = list(await send([command for commands, _ in groups for command in commands]))
        kind = ""
    except StoreError as error:
        kind = error.kind
    finally:
        for commands, future in groups:
            own, replies = replies[: len(commands)], replies[len(commands) :]
            if future.done():
                # Who waited has left.
                continue
            if kind or any(isinstance(one, Exception) for one in own):
                future.set_exception(StoreError(kind or "answer"))
            else:
                future.set_result(own)
