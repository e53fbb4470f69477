"""The deployment files by what they do; deploy/check has tools for what they are."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import main
from tests.support.gateway import GatewayProcess

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def _read(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


@pytest.fixture
def gateway() -> Iterator[GatewayProcess]:
    """A gateway as a process; its upstream is never asked."""
    process = GatewayProcess("--upstream", "http://127.0.0.1:9")
    try:
        yield process
    finally:
        process.discard()


async def test_the_health_check_of_the_image_follows_the_process(gateway: GatewayProcess) -> None:
    line = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])\n", _read("container/Dockerfile"), re.DOTALL)
    assert line is not None
    name, *arguments = json.loads(line[1])
    assert name == "python"
    port = gateway.admin.rpartition(":")[2]
    command = [sys.executable, *(argument.replace("9901", port) for argument in arguments)]
    await gateway.ready()
    assert subprocess.run(command, check=False, timeout=10).returncode == 0
    gateway.kill()
    done = subprocess.run(command, check=False, timeout=10, stderr=subprocess.DEVNULL)
    assert done.returncode != 0


def test_the_image_runs_what_the_command_line_knows(capsys: pytest.CaptureFixture[str]) -> None:
    dockerfile = _read("container/Dockerfile")
    assert 'ENTRYPOINT ["aos-gateway"]' in dockerfile
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    # By an option: in the environment it would beat the configuration file of a deployment.
    assert json.loads(command) == ["serve", "--listen", "0.0.0.0:8080"]
    with pytest.raises(SystemExit) as ended:
        main([*json.loads(command), "--help"])
    assert ended.value.code == 0
    assert "--config" in capsys.readouterr().out


def test_the_image_is_not_roots_and_holds_what_is_locked_alone() -> None:
    dockerfile = _read("container/Dockerfile")
    last = dockerfile.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "RUN" not in last
    assert all(
        {"--require-hashes", "--no-deps"} <= set(step.split()) or "--no-index" in step
        for step in _installs(dockerfile)
    )
    ignored = _read("container/Dockerfile.dockerignore").splitlines()
    assert "*" in ignored
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
        for source in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}


def _installs(dockerfile: str) -> list[str]:
    joined = dockerfile.replace("\\\n", " ")
    return [part for part in re.split(r"&&|^RUN", joined, flags=re.MULTILINE) if "pip install" in part]


def test_the_unit_starts_what_the_command_line_knows() -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", _read("systemd/aos-gateway.service"), re.MULTILINE)
    program, *arguments = shlex.split(start)
    assert program == "/opt/aos-gateway/bin/aos-gateway"
    assert arguments == ["serve", "--config", "/etc/aos-gateway/gateway.toml"]


def test_each_alert_stands_in_the_runbook_with_what_to_do() -> None:
    rows = re.findall(r"^\| `(AosGateway\w+)` \| (.+?) \| (.+?) \|$", _read("README.md"), re.MULTILINE)
    described = {name for name, meaning, action in rows if meaning and action}
    alerts = {
        name
        for file in DEPLOY.glob("monitoring/*.yml")
        for name in re.findall(r"- alert: (\w+)", file.read_text("utf-8"))
    }
    assert len(described) == len(rows) > 0
    assert alerts == described


def test_the_runbook_sizes_by_what_was_measured() -> None:
    runbook = _read("README.md")
    (run,) = re.findall(r"\]\((\.\./benchmarks/results/.*?\.md)\)", runbook)
    report = (DEPLOY / run).read_text("utf-8")
    rows = re.findall(r"^\| .*? \| ([\d.]+) µs \| ([\d,]+) a second \| ([\d,]+) \|$", runbook, re.MULTILINE)
    measured = re.findall(r"^\| gateway \| – \| ([\d.]+) µs .*? \| ([\d,]+) \(", report, re.MULTILINE)
    assert len(rows) == len(measured) == 4
    for (said_us, said_peak, planned), (cpu_us, peak) in zip(rows, measured, strict=True):
        assert float(said_us) == pytest.approx(float(cpu_us), rel=0.02)
        assert _whole(said_peak) == pytest.approx(_whole(peak), rel=0.01)
        assert _whole(planned) < 0.6 * _whole(said_peak)
    (overhead,) = re.findall(r"\((\d+) measured\)", runbook)
    assert f"{overhead} bytes" in report
    (idle,) = re.findall(r"\| (\d+) MB to begin with", runbook)
    assert re.search(rf"idle memory \|.*\b{idle}\.\d MB", report)


def _whole(text: str) -> int:
    return int(text.replace(",", ""))
