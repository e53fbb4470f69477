"""What the deployment files do; deploy/check has tools for their syntax."""

import ipaddress
import json
import random
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml

from gateway.cli.main import main
from gateway.config.model import WaitConfig
from tests.store.kit import is_used, replica, until
from tests.testbed.gateway import GatewayProcess
from tests.testbed.redis_pods import RedisPods

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def _read(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


@pytest.fixture
def gateway() -> Iterator[GatewayProcess]:
    """A gateway as a process; its upstream gets no request."""
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


def test_the_image_does_not_run_as_root_and_contains_locked_packages_only() -> None:
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


def _reaches(where: str, port: str, namespace: str = "", **labels: str) -> bool:
    """Tell whether the policy of the gateway lets it reach an address or, with a namespace, a pod."""
    policy = yaml.safe_load(_read("kubernetes/base/network.yaml"))
    return any(
        f"{each['protocol']} {each['port']}" == port and _is_peer(peer, where, namespace, labels)
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        for each in rule["ports"]
    )


def _is_peer(peer: dict[str, Any], where: str, namespace: str, labels: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        # A pod has an address too, but in many clusters no block of addresses covers it.
        return not namespace and ipaddress.ip_address(where) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    named = {"kubernetes.io/metadata.name": namespace}
    return _selects(peer["namespaceSelector"], named) and _selects(peer.get("podSelector", {}), labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    wanted |= {each["key"]: each["values"] for each in selector.get("matchExpressions", [])}
    return all(labels.get(key) in values for key, values in wanted.items())


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
@pytest.mark.parametrize(
    ("where", "port", "namespace", "label"),
    [
        ("10.0.0.9", 53, "kube-system", "kube-dns"),
        ("10.0.0.9", 53, "kube-system", "coredns"),
        ("10.0.0.9", 8053, "kube-system", "kube-dns"),
        ("10.0.0.9", 53, "kube-system", "node-local-dns"),
        ("169.254.20.10", 53, "", ""),
        ("169.254.169.254", 53, "", ""),
        ("fd00:90::a", 53, "", ""),
        ("10.0.0.9", 5353, "openshift-dns", "dns-default"),
    ],
)
def test_the_gateway_reaches_dns_wherever_a_cluster_has_it(
    where: str, port: int, namespace: str, label: str, protocol: str
) -> None:
    assert _reaches(where, f"{protocol} {port}", namespace, **{"k8s-app": label})


@pytest.mark.parametrize("where", ["192.0.2.1", "2001:db8::1"])
def test_the_gateway_reaches_aos_over_both_kinds_of_ip_and_nothing_else_there(where: str) -> None:
    assert _reaches(where, "TCP 443")
    assert not _reaches(where, "TCP 80")
    assert not _reaches(where, "UDP 53")


def test_the_gateway_reaches_neither_other_pods_nor_the_metadata_of_its_node() -> None:
    assert not _reaches("169.254.169.254", "TCP 80")
    assert not _reaches("10.0.0.9", "TCP 53", "kube-system", **{"k8s-app": "metrics-server"})
    assert not _reaches("10.0.0.9", "UDP 53", "default", **{"k8s-app": "kube-dns"})
    assert not _reaches("10.0.0.9", "TCP 443", "openshift-dns")


@pytest.mark.parametrize("name", ["base", "components/sidecar"])
def test_pods_are_reached_over_both_kinds_of_ip(name: str) -> None:
    server = tomllib.loads(_read(f"kubernetes/{name}/gateway.toml"))["server"]
    assert server["admin_listen"] == ":9901"
    assert server["listen"] in {":8080", "127.0.0.1:8080"}


@pytest.mark.parametrize(
    "file", ["deploy/kubernetes/base", "deploy/kubernetes/components/sidecar", "config/gateway.sidecar.toml"]
)
def test_the_files_give_a_running_record_again_for_a_second(file: str) -> None:
    path = DEPLOY.parent / file
    text = (path / "gateway.toml" if path.is_dir() else path).read_text("utf-8")
    assert tomllib.loads(text)["cache"]["ttl_running_s"] == 1


def test_the_readme_says_the_same() -> None:
    text = (DEPLOY.parent / "README.md").read_text("utf-8")
    assert "Set `cache.ttl_running_s = 1`" in text.partition("\n## Stop polling")[2].partition("\n## ")[0]


def test_the_runbook_lets_nobody_wait_longer_than_what_is_in_front() -> None:
    table = _read("README.md").partition("### Time-outs in front")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .* \| (\d+) s \| (\d+) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    default_s = WaitConfig().max_s
    for allowed_s, max_s in rows:
        assert int(max_s) <= min(default_s, int(allowed_s) - 5)
        assert int(max_s) == default_s or int(allowed_s) < default_s + 5


def test_a_pod_runs_as_any_user_of_the_cluster() -> None:
    pod = yaml.safe_load(_read("kubernetes/base/deployment.yaml"))["spec"]["template"]["spec"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
    (secret,) = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert secret["defaultMode"] == 0o444


def test_the_unit_starts_what_the_command_line_knows() -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", _read("systemd/aos-gateway.service"), re.MULTILINE)
    program, *arguments = shlex.split(start)
    assert program == "/opt/aos-gateway/bin/aos-gateway"
    assert arguments == ["serve", "--config", "/etc/aos-gateway/gateway.toml"]


def test_the_runbook_has_each_alert_with_an_action() -> None:
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
    for (said_us, said_peak, eligible), (cpu_us, peak) in zip(rows, measured, strict=True):
        assert float(said_us) == pytest.approx(float(cpu_us), rel=0.02)
        assert _whole(said_peak) == pytest.approx(_whole(peak), rel=0.01)
        assert _whole(eligible) < 0.6 * _whole(said_peak)
    (overhead,) = re.findall(r"\((\d+) measured\)", runbook)
    assert f"{overhead} bytes" in report
    (idle,) = re.findall(r"\| (\d+) MB to begin with", runbook)
    assert re.search(rf"idle memory \|.*\b{idle}\.\d MB", report)


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


async def _watched(sentinel: str) -> tuple[str, int, int]:
    """The primary that a Sentinel names; how many replicas of it and how many other Sentinels it knows."""
    client: Any = redis.asyncio.Redis(host=sentinel, port=26379, decode_responses=True)
    async with client:
        try:
            found = await client.execute_command("SENTINEL", "MASTER", "records")
        except redis.exceptions.ConnectionError:
            return "", 0, 0
    return found["ip"], int(found["num-slaves"]), int(found["num-other-sentinels"])


async def _sees(sentinel: str, replicas: int, primary: str) -> None:
    """Wait until a Sentinel sees so many replicas of a primary, and two other Sentinels."""

    async def sees() -> bool:
        return await _watched(sentinel) == (primary, replicas, 2)

    # It asks the primary every ten seconds.
    await until(sees, f"{replicas} replicas of {primary}", 40.0, pause_s=0.1)


@pytest.mark.operation
@pytest.mark.timeout(150)
async def test_the_pods_of_redis_replace_their_primary_and_take_it_back_at_another_address() -> None:
    network = f"127.{random.randrange(16, 250)}.{random.randrange(250)}"
    first, second, third, another = (f"{network}.{number}" for number in range(1, 5))
    with RedisPods("secret", down_after_ms=1000) as pods:

        async def is_named() -> bool:
            return (await _watched(first))[0] == first

        pods.start(0, first, tries=1)
        await until(is_named, "the first pod", 20.0, pause_s=0.1)
        pods.start(1, second)
        pods.start(2, third)
        for address in (first, second, third):
            await _sees(address, 2, first)
        one = replica(pods.url, "aosgw")
        await one.tiers.start(0)
        await one.fill(one.key())
        pods.kill(0)

        async def is_replaced() -> bool:
            return (await _watched(second))[0] != first

        await until(is_replaced, "the failover", 30.0, pause_s=0.1)
        primary = (await _watched(second))[0]
        await until(lambda: is_used(one) and set(one.state.nodes) == {f"{primary}:6379"}, "Redis", 30.0)
        await one.fill(one.key(b"other"))
        pods.start(0, another)
        await _sees(another, 2, primary)
        # These forget no replica; the Sentinel is the same one at another address.
        await _sees(second, 3, primary)
        await one.tiers.close(0.2)
