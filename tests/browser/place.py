"""A gateway with Redis and a simulated AOS for the browser tests, and load on it."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tests.testbed.address import free_port
from tests.testbed.redis_server import RedisServer
from tests.testbed.webdriver import until

TOKEN = "page:alice"
_START_S = 15.0
_PAUSE_S = 0.02
_TIMEOUT_S = 3.0
_HELD_S = 20.0


class Place:
    """The processes.

    Args:
        workers: of the gateway.
        by_user: the gateway asks the simulated IAM whose tokens are.
        redis_url: of a Redis that runs already; None: one of its own.

    Attributes:
        page: where the page is.
        redis: its own Redis.
    """

    def __init__(self, workers: int = 1, *, by_user: bool = False, redis_url: str | None = None) -> None:
        self.redis = RedisServer()
        self._redis_url = redis_url
        self._workers = workers
        self._by_user = by_user
        self._ports = {name: free_port() for name in ("gateway", "admin", "twin", "control")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        if self._redis_url is None:
            self.redis.start()
        self.start_twin()
        self.start_gateway()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self.redis.stop()

    @property
    def page(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self._ports['admin']}/"

    def start_gateway(self) -> None:
        """Start the gateway and wait until it is ready."""
        self._start(
            "gateway",
            *("serve", "--upstream", f"http://127.0.0.1:{self._ports['twin']}"),
            *("--redis", self._redis_url or self.redis.url),
            *("--listen", f"127.0.0.1:{self._ports['gateway']}"),
            *("--admin", f"127.0.0.1:{self._ports['admin']}"),
            *("--workers", str(self._workers)),
            **self._identity(),
        )
        until(lambda: _answers(self._ports["admin"], "/readyz") and self._health()["ready"], _START_S)

    def _identity(self) -> dict[str, str]:
        if not self._by_user:
            return {}
        twin = f"http://127.0.0.1:{self._ports['twin']}"
        return {"AOS_GATEWAY_IDENTITY__BY": "user", "AOS_GATEWAY_IAM__URL": twin}

    def stop_gateway(self) -> None:
        """Send SIGTERM: the gateway drains and exits."""
        self._processes["gateway"].terminate()

    def wait_stopped(self) -> None:
        """Wait until the gateway has ended."""
        self._processes["gateway"].wait()

    def kill_worker(self) -> None:
        """Kill the first of several workers."""
        os.kill(self._health()["workers"][0]["pid"], signal.SIGKILL)

    def hold(self) -> threading.Thread:
        """Make a call that lasts as long as the simulated AOS takes, whatever becomes of it."""
        return self._hold("/v2/stacks")

    def run(self, token: str) -> None:
        """Begin an execution and ask for it with another token."""
        call(self._ports["gateway"], "GET", begin(self._ports["gateway"]), None, ("X-Auth-Token", token))

    def wait(self) -> threading.Thread:
        """Begin an execution and wait for its end by one call."""
        return self._hold(begin(self._ports["gateway"]), ("Prefer", "wait=20"))

    def _hold(self, path: str, *fields: tuple[str, str]) -> threading.Thread:
        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                call(self._ports["gateway"], "GET", path, None, *fields, timeout_s=_HELD_S)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        return thread

    def _health(self) -> Any:
        return call(self._ports["admin"], "GET", "/readyz")

    def start_twin(self) -> None:
        """Start the simulated AOS, anew and empty."""
        self._start(
            "twin",
            *("twin", "--profile", "load", "--listen", f"127.0.0.1:{self._ports['twin']}"),
            *("--control", f"127.0.0.1:{self._ports['control']}"),
        )
        until(lambda: _answers(self._ports["control"], "/state"), _START_S)

    def stop_twin(self) -> None:
        """Kill the simulated AOS: its port refuses connections then."""
        self._processes["twin"].kill()
        self._processes["twin"].wait()

    def order(self, fault: dict[str, object] | None) -> None:
        """Make the simulated AOS misbehave, or (``None``) behave."""
        if fault is None:
            call(self._ports["control"], "DELETE", "/faults")
        else:
            call(self._ports["control"], "POST", "/faults", fault)

    def load(self) -> "Load":
        """Return load on the gateway."""
        return Load(self._ports["gateway"])

    def _start(self, name: str, *arguments: str, **environ: str) -> None:
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environ},
        )


class Load:
    """One caller who makes stacks, runs their executions and polls; about 40 requests a second."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        paths: list[str] = []
        turn = 0
        while not self._ends.wait(_PAUSE_S):
            try:
                if turn % (20 if len(paths) < 6 else 80) == 0:
                    paths = [*paths[-5:], begin(self._port)]
                if paths:
                    call(self._port, "GET", paths[turn % len(paths)])
                if turn % 15 == 0:
                    call(self._port, "GET", "/v2/stacks")
            except (OSError, KeyError, http.client.HTTPException):
                # An outage; an AOS that was started anew knows none of them.
                paths.clear()
            turn += 1


def begin(port: int) -> str:
    """Make a stack, begin its execution and return the path of that."""
    name = f"page-{time.monotonic_ns()}"
    stack = {"name": name, "template_id": "page-template", "cluster_id": "page-cluster"}
    stack_id = call(port, "POST", "/v2/stacks", stack)["guid"]
    started = call(port, "PUT", f"/v2/stacks/{stack_id}/actions", {"lifecycle": "create"})
    return f"/v2/stacks/{stack_id}/actions/{started['action_id']}"


def call(
    port: int,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *more: tuple[str, str],
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    """Make one call and return its JSON, whatever the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        fields = {"X-Auth-Token": TOKEN, "Content-Type": "application/json", "Connection": "close"}
        fields |= dict(more)
        connection.request(method, path, None if body is None else json.dumps(body), fields)
        text = connection.getresponse().read()
        return json.loads(text) if text else {}
    finally:
        connection.close()


def _answers(port: int, path: str) -> bool:
    try:
        call(port, "GET", path)
    except OSError:
        return False
    return True
