"""Runs promtool on a running gateway's metrics, the alert rules, their cases, and the autoscaler's queries.

    python -m tests.monitoring.promtool

Debian's package `prometheus` brings promtool. Nothing is skipped: without it this fails and says so.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.testbed.client import fetch
from tests.testbed.gateway import GatewayProcess

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
_NOWHERE = "http://127.0.0.1:9"
_PROMTOOL_S = 60


def main() -> int:
    """Run every check; 0 when all of them pass."""
    program = shutil.which("promtool")
    if program is None:
        print("promtool is missing; install Debian's package prometheus (apt-get install prometheus)")
        return 1
    with tempfile.NamedTemporaryFile(suffix=".yml") as queries:
        queries.write(_queries())
        queries.flush()
        return _check(program, queries.name)


def _queries() -> bytes:
    """Return what the Prometheus adapter asks for one pod, as recording rules."""
    rules = yaml.safe_load((FOLDER / "adapter.yml").read_text("utf-8"))["rules"]["custom"]
    recorded = []
    for rule in rules:
        series, query = rule["seriesQuery"].partition("{")[0], rule["metricsQuery"]
        for name, text in (("Series", series), ("LabelMatchers", 'pod="a"'), ("GroupBy", "pod")):
            query = query.replace(f"<<.{name}>>", text)
        recorded.append({"record": rule["name"]["as"], "expr": query})
    made: str = yaml.safe_dump({"groups": [{"name": "adapter", "rules": recorded}]})
    return made.encode()


def _check(program: str, queries: str) -> int:
    checks: list[tuple[list[str], bytes | None]] = [
        (["check", "rules", queries], None),
        (["check", "rules", str(FOLDER / "alerts.yml")], None),
        (["test", "rules", str(FOLDER / "alerts_test.yml")], None),
        # It brings the rules along.
        (["check", "config", str(FOLDER / "prometheus.yml")], None),
        (["check", "metrics"], asyncio.run(_scrape())),
    ]
    failed = [arguments for arguments, text in checks if not _passes([program, *arguments], text)]
    for arguments in failed:
        print("failed: promtool", *arguments)
    return 1 if failed else 0


def _passes(command: list[str], text: bytes | None) -> bool:
    print("$", "promtool", *command[1:], flush=True)
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_PROMTOOL_S,
        check=False,
    )
    print(done.stdout.decode(), end="", flush=True)
    # `check metrics` says what it would have otherwise, and ends with 0 for some of that.
    return done.returncode == 0 and (text is None or not done.stdout)


async def _scrape() -> bytes:
    """Return what a gateway says after a failed fetch, a failed call and a malformed request."""
    gateway = GatewayProcess("--upstream", _NOWHERE)
    try:
        await gateway.ready()
        for target in ("/v2/stacks/s/actions/a", "/v2/stacks", "*"):
            await fetch(gateway.address, target, token="a")
        return (await fetch(gateway.admin, "/metrics")).body
    finally:
        await gateway.stop()
        gateway.discard()


if __name__ == "__main__":
    sys.exit(main())
