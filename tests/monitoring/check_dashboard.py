"""Shows that each query of the dashboard returns data, with a real Prometheus that scrapes a live gateway.

    python -m tests.monitoring.check_dashboard

Starts a simulated AOS, a Redis, a gateway and a Prometheus (Debian's package `prometheus`), makes half a
minute of light load with all kinds of answers in it, and asks Prometheus what the panels would ask.
"""

import asyncio
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from gateway.config.address import TcpAddress
from gateway.twin.profiles import LOAD
from gateway.twin.server import Twin
from tests.testbed.address import free_port
from tests.testbed.client import fetch
from tests.testbed.gateway import GatewayProcess
from tests.testbed.redis_server import RedisServer

from .dashboard import Query, queries

_LOAD_S = 30.0
_PAUSE_S = 0.05
_START_S = 30.0
_JOB = "aos-gateway"
_LOOPBACK = TcpAddress(host="127.0.0.1", port=0)
_CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
scrape_configs:
  - job_name: {job}
    static_configs: [{{targets: ["{admin}"]}}]
"""


async def check() -> int:
    """Run everything; 0 when each query returned data."""
    twin = Twin(LOAD, seed=1)
    await twin.start(_LOOPBACK, None)
    with RedisServer() as redis:
        quiet = {"AOS_GATEWAY_LOG__ACCESS": "off"}
        gateway = GatewayProcess("--upstream", twin.url, "--redis", redis.url, environ=quiet)
        try:
            await gateway.ready()
            async with _prometheus(gateway.admin) as prometheus:
                await _load(gateway)
                return await _ask_all(prometheus)
        finally:
            await gateway.stop()
            gateway.discard()
            await twin.close()


@asynccontextmanager
async def _prometheus(admin: str) -> AsyncIterator[str]:
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("prometheus is missing; install Debian's package (apt-get install prometheus)")
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "prometheus.yml")
        config.write_text(_CONFIG.format(job=_JOB, admin=admin), "utf-8")
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}",
                "--log.level=error",
            ]
        )
        try:
            await _until_ready(address)
            yield address
        finally:
            process.terminate()
            process.wait(10)


async def _until_ready(address: str) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            try:
                if (await fetch(address, "/-/ready")).status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)


async def _load(gateway: GatewayProcess) -> None:
    """Request finished, running and missing records, lists and nonsense; send a few writes."""
    stacks = (await fetch(gateway.address, "/v2/stacks", token="load:a")).json()
    ids = [stack["guid"] for stack in stacks[:10]]
    # Also what has ended is fetched again, and so wakes.
    waiting = [("Prefer", "wait=2"), ("Cache-Control", "no-cache")]
    ends_s = time.monotonic() + _LOAD_S
    round_number = 0
    while time.monotonic() < ends_s:
        stack = ids[round_number % len(ids)]
        listed = await fetch(gateway.address, f"/v2/stacks/{stack}/actions", token="load:a")
        actions = [item["metadata"]["name"] for item in listed.json()[:3]]
        for action in actions:
            target = f"/v2/stacks/{stack}/actions/{action}"
            await fetch(gateway.address, target, token=f"load:{round_number % 3}")
            await fetch(gateway.address, target, token="load:patient", headers=waiting)
        await fetch(gateway.address, f"/v2/stacks/{stack}/actions/none", token="load:a")
        await fetch(gateway.address, "/v2/stacks", headers=[("Host", "a"), ("Host", "b")])
        await fetch(gateway.address, f"/v2/stacks/{stack}", method="DELETE", token="stranger")
        round_number += 1
        await asyncio.sleep(_PAUSE_S)


async def _ask_all(prometheus: str) -> int:
    empty = 0
    for query in queries():
        found = await _ask(prometheus, query)
        empty += not found
        print(f"{found:4d} series  {query.panel}: {query.expression}")
    print(f"{len(queries())} queries, {empty} without data")
    return 1 if empty else 0


async def _ask(prometheus: str, query: Query) -> int:
    """Return how many series with a number in them a query gives."""
    text = query.filled(job=_JOB, instance=".*", interval="20s")
    answer = json.loads((await fetch(prometheus, f"/api/v1/query?query={quote(text)}")).body)
    if answer["status"] != "success":
        print(answer)
        return 0
    return sum(not math.isnan(float(one["value"][1])) for one in answer["data"]["result"])


def main() -> int:
    """Run the check."""
    return asyncio.run(check())


if __name__ == "__main__":
    sys.exit(main())
