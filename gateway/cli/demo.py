"""The demo: a simulated AOS behind the gateway; one execution is polled to its end, one waited for."""

import asyncio
import errno
import time

import msgspec

from gateway.admin.server import AdminServer
from gateway.app.gateway import Gateway
from gateway.cli.client import Client, Response, connect
from gateway.config.address import Address, TcpAddress
from gateway.config.load import load_config
from gateway.core.aos.execution import RecordSummary, decode_deciding
from gateway.core.http.messages import first
from gateway.runtime.event_loop import check_parser, loop_factory
from gateway.runtime.listeners import ListeningSockets, open_sockets
from gateway.runtime.signals import Signals
from gateway.tasks import first_of
from gateway.telemetry.access_log import set_up_logging
from gateway.twin.profiles import profile_named
from gateway.twin.routes import Route
from gateway.twin.server import Twin

_TOKEN = "demo:alice"
_OTHER_TOKEN = "demo:alice:2"
_POLL_S = 1.0
_HITS = 2
_MOST_POLLS = 60
_CALLERS = 10
_WAIT_S = 50
_TIMEOUT_S = _WAIT_S + 10.0
_LISTEN = TcpAddress(host="127.0.0.1", port=8080)
_ADMIN = TcpAddress(host="127.0.0.1", port=9901)
_ANY_PORT = TcpAddress(host="127.0.0.1", port=0)


def run(*, by_user: bool) -> int:
    """Run the demo until Ctrl-C, with ``identity.by = "user"`` or without; return the exit code."""
    set_up_logging("warning", "text")
    check_parser()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_demo(by_user=by_user))


async def _demo(*, by_user: bool) -> int:
    async with Signals() as signals:
        await first_of(signals.wait(), _show(by_user=by_user))
    print("\nended", flush=True)
    return 0


async def _show(*, by_user: bool) -> None:
    twin = Twin(profile_named("demo"))
    await twin.start(_ANY_PORT)
    sockets, admin_sockets = await _open(_LISTEN), await _open(_ADMIN)
    address, admin_address = sockets.address, admin_sockets.address
    flags = {
        "upstream.url": twin.url,
        "server.listen": str(address),
        "server.admin_listen": str(admin_address),
        "log.access": "off",
        # The twin's executions settle in seconds, and stay as they are.
        "cache.settle_s": "0",
    }
    if by_user:
        flags |= {"identity.by": "user", "iam.url": twin.url}
    gateway = Gateway(load_config(None, {}, flags))
    admin = AdminServer(gateway)
    try:
        await gateway.start(sockets)
        await admin.start(admin_sockets)
        print(f"A simulated AOS runs on {twin.url}, the gateway in front of it on http://{address}.\n")
        async with connect(address) as client:
            stack = b'{"name":"demo","template_id":"demo-template","cluster_id":"demo-cluster"}'
            stack_id = _json(await _send(client, "POST", "/v2/stacks", body=stack))["guid"]
            first_path = await _start(client, stack_id, b'{"lifecycle":"create"}')
            await _poll(client, first_path)
            path = await _start(client, stack_id, b'{"lifecycle":"upgrade"}')
            await _wait(client, path, twin)
            if by_user:
                await _share(client, first_path, path)
        print(_farewell(address, admin_address, path), flush=True)
        # Until it is cancelled.
        await asyncio.get_running_loop().create_future()
    finally:
        await gateway.close(0)
        await admin.close()
        await twin.close()


async def _open(usual: TcpAddress) -> ListeningSockets:
    """Open the usual address, or a free port when it is taken."""
    try:
        return await open_sockets(usual)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return await open_sockets(_ANY_PORT)


async def _start(client: Client, stack_id: object, order: bytes) -> str:
    """Start an execution, and return where its record is."""
    started = _json(await _send(client, "PUT", f"/v2/stacks/{stack_id}/actions", body=order))
    return f"/v2/stacks/{stack_id}/actions/{started['action_id']}"


async def _poll(client: Client, path: str) -> None:
    """Poll an execution to its end: first from AOS, then from the gateway."""
    print(f"Polling GET {path}\n\n   time  phase      progress  response", flush=True)
    started_s = time.monotonic()
    hits = 0
    for _ in range(_MOST_POLLS):
        response = await _send(client, "GET", path)
        about, is_hit = _source(response)
        print(_line(time.monotonic() - started_s, response, about), flush=True)
        hits += is_hit
        if hits == _HITS:
            break
        await asyncio.sleep(_POLL_S)


async def _wait(client: Client, path: str, twin: Twin) -> None:
    """Let many callers wait for an execution, and count the calls that AOS receives meanwhile."""
    prefer = f"wait={_WAIT_S}"
    print(
        f"\nNow {_CALLERS} callers wait for another execution, one request each: Prefer: {prefer}\n",
        flush=True,
    )
    received = twin.world.received
    calls = received[Route.GET_EXECUTION.label]
    started_s = time.monotonic()
    responses = await asyncio.gather(*(_send(client, "GET", path, prefer=prefer) for _ in range(_CALLERS)))
    after_s = time.monotonic() - started_s
    calls = received[Route.GET_EXECUTION.label] - calls
    polls = _CALLERS * (int(after_s / _POLL_S) + 1)
    about = f"to all {_CALLERS}; AOS saw {calls} calls, as pollers they would have made {polls}"
    print(_line(after_s, responses[-1], about))


async def _share(client: Client, asked_path: str, path: str) -> None:
    """Show that another token of the user is given what the first one has fetched, once IAM has said so."""
    print(
        f"\nNow the same user's other token, {_OTHER_TOKEN}: first for the execution above, so that IAM is\n"
        "asked whose it is, then for the one that only the first token has asked for\n"
    )
    started_s = time.monotonic()
    for each in (asked_path, path):
        response = await _send(client, "GET", each, token=_OTHER_TOKEN)
        about, _ = _source(response)
        print(_line(time.monotonic() - started_s, response, about), flush=True)
        await asyncio.sleep(_POLL_S)


def _source(response: Response) -> tuple[str, bool]:
    """Return where a response comes from, in words, and whether it is a hit."""
    cache_status = (first(response.fields, b"cache-status") or b"").decode("latin-1")
    is_hit = "; hit" in cache_status
    source = "the gateway" if is_hit else "AOS"
    return f"from {source}: {cache_status.removeprefix('aos-gateway; ')}", is_hit


def _line(after_s: float, response: Response, about: str) -> str:
    record = decode_deciding(response.body)
    phase, percent = (record.phase, record.progress) if isinstance(record, RecordSummary) else (None, None)
    progress = "-" if percent is None else f"{percent} %"
    return f"{after_s:6.1f}s  {phase or '-':<10} {progress:>7}  {about}"


def _farewell(address: Address, admin: Address, path: str) -> str:
    return f"""
Try it yourself:

  curl -i -H 'X-Auth-Token: {_TOKEN}' http://{address}{path}
  curl -i -H 'X-Auth-Token: demo:bob' http://{address}/v2/stacks
  curl http://{admin}/readyz
  curl http://{admin}/metrics

How it is doing: open http://{admin}/ in a browser.
The gateway listens on http://{address}. Ctrl-C ends everything."""


async def _send(
    client: Client,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    prefer: str | None = None,
    token: str = _TOKEN,
) -> Response:
    # Without a content coding, as curl asks, so that the commands to try are hits.
    fields = {"X-Auth-Token": token, "Accept-Encoding": "identity"}
    if prefer is not None:
        fields["Prefer"] = prefer
    return await client.send(method, path, fields, _TIMEOUT_S, body)


def _json(response: Response) -> dict[str, object]:
    if response.status >= 300:
        raise RuntimeError(f"the simulated AOS answered {response.status}")
    return msgspec.json.decode(response.body, type=dict[str, object])
