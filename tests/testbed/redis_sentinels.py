"""A primary, two replicas and three Sentinels, all real, for tests of failovers."""

import contextlib
import time
from collections.abc import Sequence
from typing import Self

from .redis_binary import find_redis_server
from .redis_server import RedisServer

SERVICE = "records"
_START_S = 15.0


class SentinelServer(RedisServer):
    """One Sentinel; `settings` are the lines of its file."""

    def __init__(self, lines: Sequence[str] = (), *, password: str | None = None) -> None:
        """Args: lines: of its configuration, beside address and folder; password: of the default user."""
        super().__init__(password=password)
        self._lines = lines

    def _command_line(self) -> Sequence[str]:
        file = self._home() / "sentinel.conf"
        lines = [
            f"port {self.address.rpartition(':')[2]}",
            "bind 127.0.0.1",
            f"dir {self._home()}",
            *([f"requirepass {self.password}"] if self.password else []),
            *self._lines,
        ]
        file.write_text("\n".join(lines) + "\n")
        return [str(self._binary or find_redis_server()), str(file), "--sentinel"]


class SentinelGroup:
    """One primary with two replicas, watched by three Sentinels; a failover takes some two seconds.

    Attributes:
        servers: the primary of the beginning first.
        sentinels: the three.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        sentinel_password: str | None = None,
        acl: Sequence[str] = (),
        sentinel_acl: Sequence[str] = (),
    ) -> None:
        """Prepare it; `with` runs it.

        Args:
            password: of the default user of the servers.
            sentinel_password: of the default user of the Sentinels.
            acl: further users of the servers, as after ``ACL SETUSER``.
            sentinel_acl: those of the Sentinels.
        """
        self._password = password
        self._sentinel_password = sentinel_password
        self._acl = acl
        self._sentinel_acl = sentinel_acl
        self.servers: list[RedisServer] = []
        self.sentinels: list[SentinelServer] = []
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as running:
            auth = {"masterauth": self._password} if self._password else {}
            primary = running.enter_context(RedisServer(password=self._password, settings=auth))
            host, _, port = primary.address.rpartition(":")
            self.servers.append(primary)
            for _ in range(2):
                settings = {**auth, "replicaof": f"{host} {port}", "repl-diskless-sync-delay": "0"}
                self.servers.append(
                    running.enter_context(RedisServer(password=self._password, settings=settings))
                )
            for server in self.servers:
                for user in self._acl:
                    server.command_now("ACL", "SETUSER", *user.split())
            lines = [
                f"sentinel monitor {SERVICE} {host} {port} 2",
                f"sentinel down-after-milliseconds {SERVICE} 400",
                f"sentinel failover-timeout {SERVICE} 4000",
                f"sentinel parallel-syncs {SERVICE} 2",
                *([f"sentinel auth-pass {SERVICE} {self._password}"] if self._password else []),
                *([f"sentinel sentinel-pass {self._sentinel_password}"] if self._sentinel_password else []),
            ]
            for _ in range(3):
                one = SentinelServer(lines, password=self._sentinel_password)
                self.sentinels.append(running.enter_context(one))
                for user in self._sentinel_acl:
                    one.command_now("ACL", "SETUSER", *user.split())
            self._wait_complete()
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def hosts(self) -> str:
        """The addresses of the Sentinels, as a URL has them."""
        return ",".join(one.address for one in self.sentinels)

    @property
    def url(self) -> str:
        """The URL, with the password of the servers."""
        user = f":{self._password}@" if self._password else ""
        return f"redis+sentinel://{user}{self.hosts}/{SERVICE}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that is the primary now, as most of the Sentinels see it."""
        named = [_named(one) for one in self.sentinels if one.is_running]
        address = max(named, key=named.count)
        return next(one for one in self.servers if one.address == address)

    def fail_over(self) -> None:
        """Have the primary replaced by a replica while it lives."""
        self.sentinels[0].command_now("SENTINEL", "FAILOVER", SERVICE)

    def _wait_complete(self) -> None:
        ends_s = time.monotonic() + _START_S
        while not all(self._is_complete(one) for one in self.sentinels):
            if time.monotonic() > ends_s:
                raise TimeoutError("the Sentinels did not find each other and the replicas")
            time.sleep(0.02)

    def _is_complete(self, sentinel: SentinelServer) -> bool:
        reply = sentinel.command_now("SENTINEL", "MASTER", SERVICE)
        assert isinstance(reply, list)
        seen = dict(zip(reply[::2], reply[1::2], strict=True))
        replicas = sentinel.command_now("SENTINEL", "REPLICAS", SERVICE)
        assert isinstance(replicas, list)
        ready = [one for one in replicas if isinstance(one, list) and _is_ready(one)]
        return seen[b"num-other-sentinels"] == b"2" and len(ready) == 2


def _named(sentinel: SentinelServer) -> str:
    reply = sentinel.command_now("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    assert isinstance(reply, list)
    host, port = (part.decode() for part in reply if isinstance(part, bytes))
    return f"{host}:{port}"


def _is_ready(replica: Sequence[object]) -> bool:
    fields = dict(zip(replica[::2], replica[1::2], strict=True))
    return fields[b"flags"] == b"slave" and fields[b"master-link-status"] == b"ok"
