"""What `deploy/check` asks of the built files: are they valid, and do they hold what the runbook says?

python deploy/check_built.py compose | kubernetes FOLDER | promises | commands
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
BUILT = ("base", "overlays/redis", "overlays/sidecar", "overlays/monitoring")
# The oldest where preStop can sleep, one in between, the newest that the validator knows.
VERSIONS = ("1.30", "1.33", "1.37")
# Of the Prometheus operator, unknown to Kubernetes itself.
FOREIGN = {"PodMonitor"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
DEFAULT_DRAIN_S = 25.0
_TOOLS = Path(sys.executable).parent


class Wrong(Exception):
    """A file does not hold what it should."""


def main(arguments: list[str]) -> int:
    """Make one check; its name is the first argument."""
    match arguments:
        case ["compose"]:
            compose()
        case ["kubernetes", folder]:
            kubernetes(ROOT / folder)
        case ["promises"]:
            promises()
        case ["commands"]:
            commands()
        case _:
            print(__doc__)
            return 2
    return 0


def compose() -> None:
    """Read the compose file as the specification has it, references between its parts included."""
    from compose_spec import PyCompose

    found = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text("utf-8"))
    # The parser takes no merge keys; PyYAML has undone them.
    PyCompose.from_yaml(yaml.safe_dump(found)).validate()
    for name, service in found["services"].items():
        where = f"compose: {name}"
        need(where, service.get("read_only") is True, "its root is not read-only")
        need(where, service.get("cap_drop") == ["ALL"], "it keeps capabilities")
        need(where, "no-new-privileges:true" in service.get("security_opt", []), "it may gain privileges")
    gateway = found["services"]["gateway"]
    grace_s = float(gateway["stop_grace_period"].removesuffix("s"))
    need("compose: gateway", grace_s > DEFAULT_DRAIN_S, "it is killed while it drains")
    for name, value in gateway["environment"].items():
        is_secret = re.search(r"SECRET|TOKEN|PASSWORD", name) is not None
        need("compose", not is_secret or name.endswith("_FILE"), f"{name} holds a secret itself")
        need("compose", "@" not in str(value), f"{name} holds credentials")
    for port in gateway["ports"]:
        need("compose: gateway", port.startswith("127.0.0.1:"), f"{port} is open to the network")


def kubernetes(folder: Path) -> None:
    """Build a kustomization and check each object against the schemas of several versions."""
    import kubernetes_validate

    for document in build(folder):
        if document["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def promises() -> None:
    """Check what no schema knows: drains, probes, rights, secrets."""
    for name in BUILT:
        documents = build(DEPLOY / "kubernetes" / name)
        for document in documents:
            if document["kind"] == "Secret":
                raise Wrong(f"{name}: a Secret has no place among the files")
            if document["kind"] == "Deployment":
                pod = document["spec"]["template"]["spec"]
                where = f"{name}: {document['metadata']['name']}"
                _pod_is_confined(where, pod)
                for container in (*pod.get("initContainers", []), *pod["containers"]):
                    _container_is_confined(f"{where}: {container['name']}", pod, container)
                    if "aos-gateway:" in container["image"]:
                        _gateway_is_right(f"{where}: {container['name']}", documents, pod, container)
    _selectors_fit()
    _unit_is_right()


def _pod_is_confined(where: str, pod: dict[str, Any]) -> None:
    need(where, pod.get("automountServiceAccountToken") is False, "the pod holds a token of the cluster")
    rights = pod.get("securityContext", {})
    need(where, rights.get("runAsNonRoot") is True, "it may run as root")
    need(where, rights.get("seccompProfile") == {"type": "RuntimeDefault"}, "it has no seccomp profile")


def _container_is_confined(where: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    rights = container.get("securityContext", {})
    need(where, rights.get("readOnlyRootFilesystem") is True, "its root can be written to")
    need(where, rights.get("allowPrivilegeEscalation") is False, "it may gain privileges")
    need(where, rights.get("capabilities") == {"drop": ["ALL"]}, "it keeps capabilities")
    resources = container.get("resources", {})
    need(where, {"cpu", "memory"} <= set(resources.get("requests", {})), "it requests nothing")
    need(where, "memory" in resources.get("limits", {}), "its memory has no limit")
    need(where, ":" in container["image"] and "latest" not in container["image"], "its image has no version")
    for variable in container.get("env", []):
        is_secret = re.search(r"SECRET|TOKEN|PASSWORD|REDIS__URL", variable["name"]) is not None
        by_reference = variable["name"].endswith("_FILE") or "valueFrom" in variable
        need(where, not is_secret or by_reference, f"{variable['name']} holds a secret itself")
        if variable["name"].endswith("_FILE"):
            need(
                where,
                _comes_from_secret(variable["value"], pod, container),
                f"{variable['value']} is no Secret",
            )


def _comes_from_secret(path: str, pod: dict[str, Any], container: dict[str, Any]) -> bool:
    for mount in container.get("volumeMounts", []):
        if path.startswith(mount["mountPath"] + "/"):
            volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            items = volume.get("secret", {}).get("items", [])
            return path.removeprefix(mount["mountPath"] + "/") in [item["path"] for item in items]
    return False


def _gateway_is_right(
    where: str, documents: list[dict[str, Any]], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    config = _config_of(documents, pod, container)
    server = config.get("server", {})
    grace_s = pod.get("terminationGracePeriodSeconds", 30)
    stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain_s = server.get("drain_grace_s", 0) + server.get("drain_timeout_s", DEFAULT_DRAIN_S)
    need(where, stop_s + drain_s < grace_s, f"{stop_s} s preStop and {drain_s} s drain exceed {grace_s} s")
    admin = int(server["admin_listen"].rpartition(":")[2])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for kind in PROBES:
        probe = container[kind]["httpGet"]
        need(where, ports.get(probe["port"]) == admin, f"{kind} is not on the admin port")
        wanted = "/healthz" if kind == "livenessProbe" else "/readyz"
        need(where, probe["path"] == wanted, f"{kind} asks {probe['path']}")
    for section, keys in (("cache", ["secret"]), ("server", ["admin_token"]), ("redis", ["url"])):
        for key in keys:
            need(where, not config.get(section, {}).get(key), f"{section}.{key} stands in a ConfigMap")


def _config_of(
    documents: list[dict[str, Any]], pod: dict[str, Any], container: dict[str, Any]
) -> dict[str, Any]:
    path = container["args"][container["args"].index("--config") + 1]
    mount = next(mount for mount in container["volumeMounts"] if path.startswith(mount["mountPath"] + "/"))
    volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    config = next(
        document
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == volume["configMap"]["name"]
    )
    return tomllib.loads(config["data"][Path(path).name])


def _selectors_fit() -> None:
    """Check that whatever selects pods selects some."""
    for name in BUILT:
        documents = build(DEPLOY / "kubernetes" / name)
        pods = [d["spec"]["template"]["metadata"]["labels"] for d in documents if d["kind"] == "Deployment"]
        for document in documents:
            spec = document.get("spec", {})
            match document["kind"]:
                case "Service":
                    selector = spec["selector"]
                case "PodDisruptionBudget" | "PodMonitor":
                    selector = spec["selector"]["matchLabels"]
                case "NetworkPolicy":
                    selector = spec["podSelector"]["matchLabels"]
                case _:
                    continue
            where = f"{name}: {document['kind']} {document['metadata']['name']}"
            need(where, any(selector.items() <= pod.items() for pod in pods), "it selects no pod")


def _unit_is_right() -> None:
    text = (DEPLOY / "systemd/aos-gateway.service").read_text("utf-8")
    stop_s = float(_setting(text, "TimeoutStopSec"))
    need("aos-gateway.service", stop_s > DEFAULT_DRAIN_S, "it is killed while it drains")
    need("aos-gateway.service", int(_setting(text, "LimitNOFILE")) > 20_000, "too few descriptors")
    need("aos-gateway.service", _setting(text, "RestartPreventExitStatus") == "2", "it restarts for ever")
    for line in re.findall(r"^Environment=(\S+)", text, re.MULTILINE):
        name, _, value = line.partition("=")
        is_secret = re.search(r"SECRET|TOKEN|PASSWORD", name) is not None
        need("aos-gateway.service", not is_secret or value.startswith("%d/"), f"{name} is no credential")


def _setting(text: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    if found is None:
        raise Wrong(f"aos-gateway.service has no {name}")
    return found[1]


def commands() -> None:
    """Run the kubectl commands of the runbook without a cluster, and check that its files exist."""
    text = (DEPLOY / "README.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in _joined(block)]
    kubectl = [line for line in lines if line.startswith("kubectl ")]
    need("deploy/README.md", len(kubectl) >= 3, "it has no kubectl commands")
    for line in kubectl:
        if (offline := _offline(line)) is not None:
            _shell(offline)
    for path in re.findall(r"deploy/[a-z0-9_./-]+[a-z0-9]", text):
        need("deploy/README.md", (ROOT / path).exists(), f"there is no {path}")


def _offline(line: str) -> str | None:
    """Return what of a kubectl command can be tried without a cluster; ``None`` when nothing can."""
    if " create secret " in line:
        return line + " --dry-run=client --output=yaml"
    if applied := re.fullmatch(r"kubectl apply -k (\S+)", line):
        return f"kubectl kustomize {applied[1]}"
    return None


def _joined(block: str) -> list[str]:
    return [line.strip() for line in block.replace("\\\n", " ").splitlines()]


def _shell(command: str) -> None:
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env={"PATH": f"{_TOOLS}:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    need(command, done.returncode == 0, done.stderr.strip())


_built: dict[Path, list[dict[str, Any]]] = {}


def build(folder: Path) -> list[dict[str, Any]]:
    """Build a kustomization with kubectl's own kustomize."""
    if folder not in _built:
        done = subprocess.run(
            [_TOOLS / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False
        )
        need(str(folder), done.returncode == 0, done.stderr.strip())
        _built[folder] = [document for document in yaml.safe_load_all(done.stdout) if document]
    return _built[folder]


def need(where: str, is_so: bool, otherwise: str) -> None:
    """Raise what is wrong unless it is so."""
    if not is_so:
        raise Wrong(f"{where}: {otherwise}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Wrong as wrong:
        print(wrong)
        sys.exit(1)
