"""The pods of deploy/kubernetes/components/sentinels as processes, each with an address of its own."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from .redis_binary import find_redis_server

_FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components" / "sentinels"
# As much of redis-cli as start.sh uses: it comes in another package than the server.
_REDIS_CLI = f"""\
#!{sys.executable}
import socket, sys
_, _, host, _, port, *command = sys.argv
with socket.create_connection((host, int(port)), 2) as connection:
    connection.sendall((" ".join(command) + "\\r\\n").encode())
    lines = connection.recv(4096).decode().splitlines()
print(*(line for line in lines if line[0] not in "*$"), sep="\\n")
"""


class RedisPods:
    """Three pods, of which none runs at first.

    Attributes:
        addresses: of those that were started.
    """

    def __init__(self, password: str, *, down_after_ms: int) -> None:
        """Args: password: of Redis; down_after_ms: instead of the five seconds of start.sh."""
        self.addresses: dict[int, str] = {}
        self._password = password
        self._down_after_ms = down_after_ms
        self._running = contextlib.ExitStack()
        self._processes: dict[int, list[subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        self._folder = Path(self._running.enter_context(tempfile.TemporaryDirectory()))
        self._running.callback(self._kill_all)
        (self._folder / "redis.conf").write_text(f"requirepass {self._password}")
        programs = self._folder / "bin"
        programs.mkdir()
        (programs / "redis-server").symlink_to(find_redis_server())
        (programs / "redis-cli").write_text(_REDIS_CLI)
        (programs / "redis-cli").chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def url(self) -> str:
        """The URL, with all Sentinels."""
        return f"redis+sentinel://:{self._password}@{','.join(self.addresses.values())}/records/0"

    def start(self, number: int, address: str, *, tries: int = 20) -> None:
        """Start a pod with empty volumes; ``tries`` as start.sh takes it."""
        self.addresses[number] = address
        data = Path(tempfile.mkdtemp(dir=self._folder))
        script = data / "start.sh"
        text = (_FOLDER / "start.sh").read_text("utf-8")
        for there, here in (
            ("secret=/run/secrets/redis", f"secret={self._folder}"),
            ("data=/data", f"data={data}"),
            ("milliseconds records 5000", f"milliseconds records {self._down_after_ms}"),
        ):
            assert there in text
            text = text.replace(there, here)
        script.write_text(text)
        environ: Mapping[str, str] = {
            "PATH": f"{self._folder}/bin:{os.environ['PATH']}",
            "POD_IP": address,
            "POD_NAME": f"aos-gateway-redis-{number}",
            # What is behind the Service.
            "SENTINELS": " ".join(self.addresses[other] for other in self._processes),
            "TRIES": str(tries),
        }
        self._processes[number] = [
            subprocess.Popen(["sh", script, kind], env=environ, stdout=subprocess.DEVNULL)
            for kind in ("redis", "sentinel")
        ]

    def kill(self, number: int) -> None:
        """End a pod at once, as the loss of its machine would."""
        for process in self._processes.pop(number):
            process.kill()
            process.wait()

    def _kill_all(self) -> None:
        for number in list(self._processes):
            self.kill(number)
