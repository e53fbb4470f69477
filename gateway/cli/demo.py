"""The demo: a simulated AOS, the gateway in front of it, and one execution polled to its end."""

from __future__ import annotations

import asyncio
import errno
import http.client
import time

import msgspec

from gateway.admin.app import build_admin
from gateway.admin.server import AdminServer
from gateway.app.gateway import Gateway
from gateway.config.address import Address, TcpAddress
from gateway.config.load import load_config
from gateway.config.model import Config
from gateway.core.aos.execution import ExecutionRecord, decode_record
from gateway.runtime.event_loop import check_parser, loop_factory
from gateway.runtime.signals import Signals
from gateway.telemetry.access_log import set_up_logging
from gateway.twin.profiles import profile_named
from gateway.twin.server import Twin

_TOKEN = "demo:alice"
_POLL_S = 0.5
_HITS = 3
_MOST_POLLS = 120
_CALL_S = 5.0
_LISTEN = TcpAddress(host="127.0.0.1", port=8080)
_ADMIN = TcpAddress(host="127.0.0.1", port=9901)
_ANY_PORT = TcpAddress(host="127.0.0.1", port=0)


class _Called(msgspec.Struct, frozen=True):
    status: int
    cache_status: str
    body: bytes


def run() -> int:
    """Run the demo until Ctrl-C.

    Returns:
        The exit code: 0 after a clean end.
    """
    set_up_logging("warning", "text")
    check_parser()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_demo())


async def _demo() -> int:
    async with Signals() as signals:
        stopped = asyncio.ensure_future(signals.wait())
        show = asyncio.ensure_future(_show(stopped))
        await asyncio.wait((stopped, show), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        show.cancel()
        await asyncio.gather(stopped, show, return_exceptions=True)
    if not show.cancelled() and (error := show.exception()) is not None:
        raise error
    print("\nended", flush=True)
    return 0


async def _show(stopped: asyncio.Future[None]) -> None:
    twin = Twin(profile_named("demo"))
    await twin.start(_ANY_PORT)
    assert twin.url is not None
    gateway, address = await _start_gateway(twin.url)
    admin, admin_address = await _start_admin(gateway)
    try:
        print(f"A simulated AOS runs on {twin.url}, the gateway in front of it on http://{address}.\n")
        await _poll(address)
        print(_farewell(address, admin_address), flush=True)
        await stopped
    finally:
        await gateway.close(0)
        await admin.close()
        await twin.close()


async def _start_gateway(upstream_url: str) -> tuple[Gateway, Address]:
    """Start on the usual address, or on a free one when somebody is there."""
    for listen in (_LISTEN, _ANY_PORT):
        gateway = Gateway(_config(upstream_url, listen))
        try:
            return gateway, await gateway.start()
        except OSError as error:
            await gateway.close(0)
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("no free port")


async def _start_admin(gateway: Gateway) -> tuple[AdminServer, Address]:
    for listen in (_ADMIN, _ANY_PORT):
        server = gateway.config.server
        admin = AdminServer(build_admin(gateway, token=server.admin_token, hosts=server.admin_hosts), listen)
        try:
            return admin, await admin.start()
        except OSError as error:
            await admin.close()
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("no free port")


def _config(upstream_url: str, listen: Address) -> Config:
    flags: dict[str, object] = {
        "upstream.url": upstream_url,
        "server.listen": str(listen),
        "server.admin_listen": str(_ADMIN),
        "log.access": "off",
    }
    # The twin settles in seconds, so what it says is settled at once.
    return load_config(None, {}, flags | {"cache.settle_s": "0"})


async def _poll(address: Address) -> None:
    """Make a stack, run its first execution and poll it: first from AOS, then from the gateway."""
    stack = b'{"name":"demo","template_id":"demo-template","cluster_id":"demo-cluster"}'
    stack_id = str(_json(await _call(address, "POST", "/v2/stacks", stack))["guid"])
    action = b'{"lifecycle":"create"}'
    started = _json(await _call(address, "PUT", f"/v2/stacks/{stack_id}/actions", action))
    path = f"/v2/stacks/{stack_id}/actions/{started['action_id']}"
    print(f"Polling GET {path}\n\n   time  phase      progress  verdict", flush=True)
    started_s = time.monotonic()
    hits = 0
    for _ in range(_MOST_POLLS):
        called = await _call(address, "GET", path)
        record = decode_record(called.body) if called.status == 200 else ExecutionRecord()
        is_hit = "; hit" in called.cache_status
        print(_line(time.monotonic() - started_s, record, called.cache_status, is_hit=is_hit), flush=True)
        hits += is_hit
        if hits == _HITS:
            break
        await asyncio.sleep(_POLL_S)
    print(f"\nTry it yourself:\n\n  curl -i -H 'X-Auth-Token: {_TOKEN}' http://{address}{path}")


def _line(after_s: float, record: ExecutionRecord, cache_status: str, *, is_hit: bool) -> str:
    status = record.status
    phase = status.object_status.phase if status is not None and status.object_status is not None else None
    progress = f"{status.progress} %" if status is not None and status.progress is not None else "-"
    told = cache_status.removeprefix("aos-gateway; ")
    who = "the gateway" if is_hit else "AOS"
    return f"{after_s:6.1f}s  {phase or '-':<10} {progress:>7}  from {who}: {told}"


def _farewell(address: Address, admin: Address) -> str:
    return f"""  curl -i -H 'X-Auth-Token: demo:bob' http://{address}/v2/stacks
  curl http://{admin}/readyz
  curl http://{admin}/metrics

How it is doing: open http://{admin}/ in a browser.
The gateway listens on http://{address}. Ctrl-C ends everything."""


async def _call(address: Address, method: str, path: str, body: bytes | None = None) -> _Called:
    return await asyncio.to_thread(_call_now, address, method, path, body)


def _call_now(address: Address, method: str, path: str, body: bytes | None) -> _Called:
    assert isinstance(address, TcpAddress)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_CALL_S)
    try:
        fields = {"X-Auth-Token": _TOKEN, "Connection": "close"}
        if body is not None:
            fields["Content-Type"] = "application/json"
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        return _Called(response.status, response.getheader("Cache-Status", ""), response.read())
    finally:
        connection.close()


def _json(called: _Called) -> dict[str, object]:
    if called.status >= 300:
        raise RuntimeError(f"the simulated AOS answered {called.status}")
    return msgspec.json.decode(called.body, type=dict[str, object])
