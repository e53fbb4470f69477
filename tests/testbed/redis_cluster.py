"""A real Redis Cluster of three primaries with a replica each, up in seconds."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from .redis_server import RedisReplyError, RedisServer

_START_S = 20.0
_PRIMARIES = 3


class RedisCluster:
    """Three primaries, and three replicas unless told otherwise; a failover takes some two seconds.

    Attributes:
        nodes: the primaries of the beginning, then their replicas.
    """

    def __init__(
        self,
        *,
        replicas: bool = True,
        password: str | None = None,
        acl: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        """Prepare it; `with` runs it.

        Args:
            replicas: each primary has one.
            password: of the default user.
            acl: further users, as after ``ACL SETUSER``.
            binary: the program; None looks for Redis.
        """
        settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": "0",
            **({"masterauth": password} if password else {}),
        }
        count = 2 * _PRIMARIES if replicas else _PRIMARIES
        self.nodes = [RedisServer(password=password, settings=settings, binary=binary) for _ in range(count)]
        self._acl = acl
        self._password = password
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as running:
            for node in self.nodes:
                running.enter_context(node)
                for user in self._acl:
                    node.command_now("ACL", "SETUSER", *user.split())
            self._join()
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def prefix(self) -> str:
        """A key prefix that no other test has."""
        return self.nodes[0].prefix

    @property
    def url(self) -> str:
        """The URL, with two of the nodes."""
        user = f":{self._password}@" if self._password else ""
        return f"redis+cluster://{user}{self.nodes[0].address},{self.nodes[1].address}"

    def primary_of(self, name: bytes) -> RedisServer:
        """The server that has a key's slot now, as most of the nodes see it."""
        slot = key_slot(name)
        seen = [address for node in self.nodes if node.is_running for address in _primaries(node, slot)]
        address = max(seen, key=seen.count)
        return next(node for node in self.nodes if node.address == address)

    def flush(self) -> None:
        """Remove all keys and clients, and take another prefix."""
        for node in self.nodes:
            with contextlib.suppress(RedisReplyError):  # a replica
                node.flush()

    def _join(self) -> None:
        first = self.nodes[0]
        host, _, port = first.address.rpartition(":")
        for number, node in enumerate(self.nodes):
            node.command_now("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                node.command_now("CLUSTER", "MEET", host, port)
        ends = [REDIS_CLUSTER_HASH_SLOTS * number // _PRIMARIES for number in range(_PRIMARIES + 1)]
        for node, begin, end in zip(self.nodes, ends, ends[1:], strict=False):
            node.command_now("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
        self._until(lambda node: _info(node)["cluster_known_nodes"] == str(len(self.nodes)))
        for primary, replica in zip(self.nodes, self.nodes[_PRIMARIES:], strict=False):
            replica.command_now("CLUSTER", "REPLICATE", _text(primary.command_now("CLUSTER", "MYID")))
        self._until(lambda node: _info(node)["cluster_state"] == "ok" and self._is_whole(node))

    def _is_whole(self, node: RedisServer) -> bool:
        ranges = node.command_now("CLUSTER", "SLOTS")
        each = len(self.nodes) // _PRIMARIES
        return (
            isinstance(ranges, list)
            and len(ranges) == _PRIMARIES
            and all(isinstance(one, list) and len(one) == 2 + each for one in ranges)
            and (node in self.nodes[:_PRIMARIES] or b"master_link_status:up" in _raw(node, "replication"))
        )

    def _until(self, holds: Callable[[RedisServer], bool]) -> None:
        ends_s = time.monotonic() + _START_S
        while not all(holds(node) for node in self.nodes):
            if time.monotonic() > ends_s:
                raise TimeoutError("the nodes did not become a Cluster")
            time.sleep(0.02)


def _primaries(node: RedisServer, slot: int) -> list[str]:
    try:
        reply = node.command_now("CLUSTER", "SLOTS", timeout_s=0.5)
    except TimeoutError:  # paused
        reply = None
    found = []
    for one in reply if isinstance(reply, list) else []:
        match one:
            case [int(begin), int(end), [bytes(host), int(port), *_], *_] if begin <= slot <= end:
                found.append(f"{host.decode()}:{port}")
    return found


def _info(node: RedisServer) -> dict[str, str]:
    lines = _text(node.command_now("CLUSTER", "INFO")).splitlines()
    return dict(line.partition(":")[::2] for line in lines)


def _raw(node: RedisServer, section: str) -> bytes:
    reply = node.command_now("INFO", section)
    return reply if isinstance(reply, bytes) else b""


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
