"""Tries on every server what the gateway does there, for ``check --redis``."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from gateway.clock import Clock
from gateway.config.redis_url import redis_place
from gateway.store.redis_cluster import read_slots, settings_at
from gateway.store.redis_connection import Address, RedisSettings, connection_arguments
from gateway.store.redis_errors import error_text, is_answer, wrong_server
from gateway.store.redis_sentinel import SentinelLocator
from gateway.tasks import TaskSet

_TIMEOUT_S = 3.0
_LIFE_MS = "10000"


class Attempt(msgspec.Struct, frozen=True):
    """What came of one command.

    Attributes:
        server: host and port, or path.
        command: its name; "" is connecting, with user, password and database.
        refusal: in the words of Redis; "" if it is allowed.
    """

    server: str
    command: str
    refusal: str


async def try_redis(settings: RedisSettings, prefix: str) -> Sequence[Attempt]:
    """Try each command once on every server, with a key that lives for ten seconds at most."""
    place = redis_place(settings.url)
    match place.kind:
        case "single":
            return await _try(settings, [f"{prefix}:check:{{0}}", f"{prefix}:check:{{1}}"])
        case "sentinel":
            locator = SentinelLocator(place, settings, TaskSet(), Clock())
            try:
                address = await locator.address()
            except Exception as error:  # the parser raises anything when fed with garbage
                hosts = ", ".join(f"{host}:{port}" for host, port in place.hosts)
                return [Attempt(hosts, "", error_text(error, settings.sentinel_password))]
            return await _try_at(settings, address, [f"{prefix}:check:{{0}}"])
        case "cluster":
            try:
                ranges = await read_slots(settings, place.hosts)
            except Exception as error:
                hosts = ", ".join(f"{host}:{port}" for host, port in place.hosts)
                return [Attempt(hosts, "CLUSTER SLOTS", error_text(error, settings.password))]
            servers: dict[Address, list[tuple[int, int]]] = {}
            for first, last, address in ranges:
                servers.setdefault(address, []).append((first, last))
            found = [
                await _try_at(settings, address, [_name_in(prefix, slots)])
                for address, slots in servers.items()
            ]
            return [attempt for attempts in found for attempt in attempts]


def _name_in(prefix: str, slots: Sequence[tuple[int, int]]) -> str:
    names = (f"{prefix}:check:{{{number}}}" for number in itertools.count())
    return next(
        name for name in names if any(first <= key_slot(name.encode()) <= last for first, last in slots)
    )


async def _try_at(settings: RedisSettings, address: Address, names: Sequence[str]) -> Sequence[Attempt]:
    return await _try(settings_at(settings, address), names)


async def _try(settings: RedisSettings, names: Sequence[str]) -> Sequence[Attempt]:
    server = settings.server
    name, channel = names[0], f"{names[0].partition(':check:')[0]}:check"
    commands = [
        ("PING",),
        ("SET", name, "check", "NX", "PX", _LIFE_MS),
        ("GET", name),
        ("MGET", name),
        ("PEXPIRE", name, _LIFE_MS),
        ("PTTL", name),
        # Of two slots, where there is no Cluster.
        ("DEL", *names),
        ("PUBLISH", channel, ""),
        ("SUBSCRIBE", channel),
        ("UNSUBSCRIBE", channel),
    ]
    arguments: dict[str, Any] = connection_arguments(settings, _TIMEOUT_S)
    connection: AbstractConnection = arguments.pop("connection_class")(**arguments)
    connect: Callable[[], Awaitable[None]] = connection.connect
    attempts: list[Attempt] = []
    command = ""
    try:
        await connect()
        for command, *rest in commands:
            await connection.send_command(command, *rest)
            refusal = ""
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await connection.read_response(disconnect_on_error=False)
            except Exception as error:
                if not is_answer(error):
                    # The next reply might be the one to this command.
                    raise
                refusal = _words(error, settings)
            attempts.append(Attempt(server, command, refusal))
    except Exception as error:
        attempts.append(Attempt(server, command, _words(error, settings)))
    finally:
        await connection.disconnect()
    return attempts


def _words(error: Exception, settings: RedisSettings) -> str:
    return (wrong_server(error) or "") + error_text(error, settings.password)
