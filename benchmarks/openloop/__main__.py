"""``python -m benchmarks.openloop``: one run in a process of its own."""

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness.arguments import count, positive
from benchmarks.openloop import Report, offer, read_targets
from benchmarks.openloop.generator import BadUrlError
from benchmarks.openloop.targets import BadTargetsError

_NICENESS: Final = -10


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, run, write the report.

    Returns:
        0, 1 when nothing was answered, or with errors alone, 2 for an option that cannot be used, 3 for a run
        that is not valid, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    # A collection in mid-run would be lag; what a run leaves behind is bounded by its length.
    gc.disable()
    _go_first()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            report = runner.run(_offer(options))
    except (BadUrlError, BadTargetsError) as exc:
        print(f"openloop: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    latency = report.latency_ms
    print(
        f"{report.offered_per_s:.0f}/s offered, {report.completed} of {report.scheduled} answered,"
        f" p50 {latency.p50:.2f} ms, p99 {latency.p99:.2f} ms, max {latency.max:.2f} ms"
    )
    if not report.succeeded:
        found = ", ".join(f"{name} {number}" for name, number in report.errors.items())
        print(f"openloop: nothing was answered below 400: {found or 'no request was due'}", file=sys.stderr)
        return 1
    if not report.is_valid:
        print(f"openloop: not valid: {report.why_not}", file=sys.stderr)
        return 3
    return 0


async def _offer(options: argparse.Namespace) -> Report:
    return await offer(
        options.url,
        read_targets(options.targets),
        rate_per_s=options.rate,
        duration_s=options.duration,
        connections=options.connections,
        token=options.token,
        is_poisson=options.poisson,
        timeout_s=options.timeout,
        seed=options.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openloop",
        description="Offer requests on a schedule and count their latency from the scheduled time.",
    )
    parser.add_argument("--url", required=True, help="http://host:port[/base] or unix:/path")
    parser.add_argument("--rate", required=True, type=positive, metavar="R", help="requests a second")
    parser.add_argument("--duration", required=True, type=positive, metavar="S", help="seconds")
    parser.add_argument("--connections", required=True, type=count, metavar="N", help="open at most N")
    parser.add_argument(
        "--targets", required=True, type=Path, metavar="FILE", help='lines of {"target", "token", "weight"}'
    )
    parser.add_argument("--token", metavar="T", help="X-Auth-Token of targets without their own")
    parser.add_argument("--poisson", action="store_true", help="draw the gaps between requests")
    parser.add_argument("--timeout", type=positive, default=10.0, metavar="S", help="seconds (default 10)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all chance (default 1)")
    parser.add_argument("--json", required=True, type=Path, metavar="OUT", help="where the report goes")
    return parser


def _go_first() -> None:
    """Be served before others by the scheduler, where that is allowed: it needs little, but on time."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
