"""What the runbook promises and no schema checks: drain, probes, network, permissions, secrets."""

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import yaml

from deploy.built import BUILT, DEPLOY, build, need

DEFAULT_DRAIN_S = 25.0
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_OPENSHIFT = "components/openshift"
_WORKLOADS = ("Deployment", "StatefulSet")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|REDIS__URL")
_BOTH = ("UDP", "TCP")
_DNS = (
    (
        "pods k8s-app=kube-dns|coredns|node-local-dns in kube-system",
        tuple(f"{each} {port}" for port in (53, 8053) for each in _BOTH),
    ),
    *((local, tuple(f"{each} 53" for each in _BOTH)) for local in ("169.254.0.0/16", "fd00::/8")),
    ("pods in openshift-dns", tuple(f"{each} 5353" for each in _BOTH)),
)
_AOS = (("0.0.0.0/0", ("TCP 443",)), ("::/0", ("TCP 443",)))
_CALLERS = ("pods of this namespace", ("TCP http",))
_SENTINELS = ("TCP 6379", "TCP 26379")
# For each network policy: the allowed ingress and egress, with ports; everything else is closed.
ALLOWED: dict[str, tuple[set[object], set[object]]] = {
    "aos-gateway": ({_CALLERS}, {*_DNS, *_AOS}),
    "aos-gateway-to-redis": (set(), {("pods app.kubernetes.io/component=redis", ("TCP 6379",))}),
    "aos-gateway-metrics": (
        {("pods in monitoring|openshift-user-workload-monitoring", ("TCP admin",))},
        set(),
    ),
    "aos-gateway-redis": ({("pods app.kubernetes.io/component=gateway", ("TCP redis",))}, set()),
    "aos-gateway-to-sentinels": (set(), {("pods app.kubernetes.io/component=redis", _SENTINELS)}),
    "aos-gateway-sentinels": (
        {("pods app.kubernetes.io/component=gateway|redis", ("TCP redis", "TCP sentinel"))},
        {("pods app.kubernetes.io/component=redis", _SENTINELS)},
    ),
}

Document = dict[str, Any]


def promises() -> None:
    """Run all checks."""
    for name in BUILT:
        documents = build(DEPLOY / "kubernetes" / name)
        need(name, not _of(documents, "Secret"), "the files contain a Secret")
        for workload in _of(documents, *_WORKLOADS):
            pod = workload["spec"]["template"]["spec"]
            where = f"{name}: {workload['metadata']['name']}"
            _pod_is_confined(where, pod)
            for container in (*pod.get("initContainers", []), *pod["containers"]):
                _container_is_confined(f"{where}: {container['name']}", pod, container)
                if "aos-gateway:" in container["image"]:
                    _gateway_is_right(f"{where}: {container['name']}", documents, pod, container)
        _selectors_fit(name, documents)
        _network_is_closed(name, documents)
        _replicas_can_change(name, documents)
    _sidecar_is_one()
    _any_user_works()
    _image_leaves_settings_alone()
    _unit_is_right()
    _rules_are_the_tested_ones()


def _of(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def _pod_is_confined(where: str, pod: Document) -> None:
    need(where, pod.get("automountServiceAccountToken") is False, "the pod has a token of the cluster")
    context = pod.get("securityContext", {})
    need(where, context.get("runAsNonRoot") is True, "it may run as root")
    need(where, context.get("seccompProfile") == {"type": "RuntimeDefault"}, "it has no seccomp profile")


def _container_is_confined(where: str, pod: Document, container: Document) -> None:
    context = container.get("securityContext", {})
    need(where, context.get("readOnlyRootFilesystem") is True, "its root can be written to")
    need(where, context.get("allowPrivilegeEscalation") is False, "it may gain privileges")
    need(where, context.get("capabilities") == {"drop": ["ALL"]}, "it keeps capabilities")
    resources = container.get("resources", {})
    need(where, {"cpu", "memory"} <= set(resources.get("requests", {})), "it requests no CPU or memory")
    need(where, "memory" in resources.get("limits", {}), "its memory has no limit")
    need(where, ":" in container["image"] and "latest" not in container["image"], "its image has no version")
    for variable in container.get("env", []):
        name = variable["name"]
        is_by_reference = name.endswith("_FILE") or "valueFrom" in variable
        need(where, is_by_reference or not _SECRET.search(name), f"{name} contains a secret")
        if name.endswith("_FILE"):
            is_secret = _comes_from_secret(variable["value"], pod, container)
            need(where, is_secret, f"{variable['value']} is not from a Secret")


def _comes_from_secret(path: str, pod: Document, container: Document) -> bool:
    for mount in container.get("volumeMounts", []):
        if path.startswith(mount["mountPath"] + "/"):
            volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            items = volume.get("secret", {}).get("items", [])
            return path.removeprefix(mount["mountPath"] + "/") in [item["path"] for item in items]
    return False


def _gateway_is_right(where: str, documents: list[Document], pod: Document, container: Document) -> None:
    config = _config_of(documents, pod, container)
    server = config.get("server", {})
    grace_s = pod.get("terminationGracePeriodSeconds", 30)
    stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain_s = server.get("drain_grace_s", 0) + server.get("drain_timeout_s", DEFAULT_DRAIN_S)
    need(where, stop_s + drain_s < grace_s, f"{stop_s} s preStop and {drain_s} s drain exceed {grace_s} s")
    host, _, port = server["admin_listen"].rpartition(":")
    need(where, not host, f"the kubelet does not reach the admin address on {host} over IPv4 and IPv6")
    need(where, not server["listen"].startswith(("0.0.0.0", "[::]")), "callers need one version of IP")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for kind in PROBES:
        probe = container[kind]["httpGet"]
        need(where, ports.get(probe["port"]) == int(port), f"{kind} is not on the admin port")
        wanted = "/healthz" if kind == "livenessProbe" else "/readyz"
        need(where, probe["path"] == wanted, f"{kind} requests {probe['path']}")
    for section, keys in (("cache", ["secret"]), ("server", ["admin_token"]), ("redis", ["url"])):
        for key in keys:
            need(where, not config.get(section, {}).get(key), f"{section}.{key} is in a ConfigMap")


def _config_of(documents: list[Document], pod: Document, container: Document) -> Document:
    path = container["args"][container["args"].index("--config") + 1]
    mount = next(mount for mount in container["volumeMounts"] if path.startswith(mount["mountPath"] + "/"))
    volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    name = volume["configMap"]["name"]
    config = next(each for each in _of(documents, "ConfigMap") if each["metadata"]["name"] == name)
    return tomllib.loads(config["data"][Path(path).name])


def _selectors_fit(name: str, documents: list[Document]) -> None:
    """Check that each selector matches one kind of pod, and that named ports exist there."""
    templates = [each["spec"]["template"] for each in _of(documents, *_WORKLOADS)]
    for document in documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "Service":
                selector, ports = spec["selector"], [port["targetPort"] for port in spec["ports"]]
            case "PodDisruptionBudget":
                selector, ports = spec["selector"]["matchLabels"], []
            case "PodMonitor":
                selector = spec["selector"]["matchLabels"]
                ports = [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
                ports = [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
            case _:
                continue
        where = f"{name}: {document['kind']} {document['metadata']['name']}"
        pods = [each for each in templates if selector.items() <= each["metadata"]["labels"].items()]
        need(where, len(pods) == 1, f"it selects {len(pods)} kinds of pods")
        there = {port["name"] for each in pods[0]["spec"]["containers"] for port in each["ports"]}
        need(where, set(ports) <= there, f"its ports {ports} are not all among {there}")
        if document["kind"] == "PodMonitor":
            job = pods[0]["metadata"]["labels"][spec["jobLabel"]]
            need(where, job == "aos-gateway", f"the alert rules do not know the job {job}")


def _network_is_closed(name: str, documents: list[Document]) -> None:
    """Check that each policy allows what ALLOWED says, and that one restricts each kind of pod both ways."""
    policies = _of(documents, "NetworkPolicy")
    for policy in policies:
        spec, called = policy["spec"], policy["metadata"]["name"]
        for rules, peers, expected in zip(
            ("ingress", "egress"), ("from", "to"), ALLOWED[called], strict=True
        ):
            found = {each for rule in spec.get(rules, []) for each in _allowed(rule, peers)}
            need(f"{name}: {called}", found == expected, f"{rules} is {found}")
    closed = [each["spec"] for each in policies if len(each["spec"]["policyTypes"]) == 2]
    for workload in _of(documents, *_WORKLOADS):
        if workload["metadata"]["name"] != "application":
            labels = workload["spec"]["template"]["metadata"]["labels"].items()
            is_closed = any(each["podSelector"]["matchLabels"].items() <= labels for each in closed)
            need(f"{name}: {workload['metadata']['name']}", is_closed, "no policy restricts it")


def _allowed(rule: Document, peers: str) -> list[object]:
    ports = tuple(f"{port['protocol']} {port['port']}" for port in rule["ports"])
    return [(_peer(peer), ports) for peer in rule[peers]]


def _peer(peer: Document) -> str:
    if "ipBlock" in peer:
        return str(peer["ipBlock"]["cidr"])
    labels = [f"{key}={value}" for key, value in _required(peer.get("podSelector", {}))]
    if "namespaceSelector" in peer:
        ((_, namespace),) = _required(peer["namespaceSelector"])
        return " ".join(["pods", *labels, "in", namespace])
    return " ".join(["pods", *labels]) if labels else "pods of this namespace"


def _required(selector: Document) -> list[tuple[str, str]]:
    """Return the labels that a selector requires, with the accepted values."""
    found = list(selector.get("matchLabels", {}).items())
    for each in selector.get("matchExpressions", []):
        need(each["key"], each["operator"] == "In", f"the operator {each['operator']} is not understood")
        found.append((each["key"], "|".join(each["values"])))
    return found


def _replicas_can_change(name: str, documents: list[Document]) -> None:
    """Check that there are always two replicas, that one can be removed, and that scaling has a metric."""
    deployments = {each["metadata"]["name"]: each["spec"] for each in _of(documents, "Deployment")}
    rules = yaml.safe_load((DEPLOY / "monitoring/adapter.yml").read_text("utf-8"))["rules"]["custom"]
    adapted = {rule["name"]["as"] for rule in rules}
    for autoscaler in _of(documents, "HorizontalPodAutoscaler"):
        spec, where = autoscaler["spec"], f"{name}: the autoscaler"
        scaled = deployments[spec["scaleTargetRef"]["name"]]
        need(where, "replicas" not in scaled, "the Deployment sets replicas too")
        need(where, spec["minReplicas"] >= 2, "no replica is left when one is removed")
        for metric in spec["metrics"]:
            if metric["type"] == "Pods":
                called = metric["pods"]["metric"]["name"]
                need(where, called in adapted, f"deploy/monitoring/adapter.yml has no {called}")
                continue
            requested = [
                each["resources"]["requests"].get(metric["resource"]["name"])
                for each in scaled["template"]["spec"]["containers"]
            ]
            need(where, all(requested), "it scales by a resource that is not requested")
    for budget in _of(documents, "PodDisruptionBudget"):
        need(
            f"{name}: the budget",
            budget["spec"]["maxUnavailable"] == 1,
            "more than one may be removed at once",
        )
    if "aos-gateway" in deployments:
        rolling = deployments["aos-gateway"]["strategy"]["rollingUpdate"]
        need(
            name, rolling["maxUnavailable"] == 0, "a rollout removes a replica before its successor is ready"
        )
        kinds = {each["kind"] for each in documents}
        need(name, kinds >= {"HorizontalPodAutoscaler", "PodDisruptionBudget"}, f"there are only {kinds}")


def _sidecar_is_one() -> None:
    """Check that the sidecar starts before its application, ends after it and only serves it."""
    documents = build(DEPLOY / "kubernetes/overlays/sidecar")
    (deployment,) = _of(documents, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    need("sidecar", sidecar.get("restartPolicy") == "Always", "it ends before the application starts")
    config = _config_of(documents, pod, sidecar)
    listen = config["server"]["listen"]
    need("sidecar", listen.startswith(("127.0.0.1:", "unix:")), f"it can be reached on {listen}")
    need("sidecar", config["cache"]["scope"] == "shared", "its application's tokens do not share records")
    secrets = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
    for application in pod["containers"]:
        mounted = {mount["name"] for mount in application.get("volumeMounts", [])}
        is_free = not (mounted & secrets or _SECRET.search(str(application.get("env"))))
        need("sidecar", is_free, "its application has a secret")


def _any_user_works() -> None:
    """Check that on OpenShift no pod names its user, since OpenShift assigns one."""
    kubernetes = DEPLOY / "kubernetes"
    with tempfile.TemporaryDirectory() as made:
        for name in BUILT:
            folder = Path(made) / name
            folder.mkdir(parents=True)
            # kustomize accepts no absolute paths.
            built, component = (os.path.relpath(kubernetes / each, folder) for each in (name, _OPENSHIFT))
            text = yaml.safe_dump({"resources": [built], "components": [component]})
            (folder / "kustomization.yaml").write_text(text, "utf-8")
            for workload in _of(build(folder), *_WORKLOADS):
                pod = workload["spec"]["template"]["spec"]
                for each in (pod, *pod.get("initContainers", []), *pod["containers"]):
                    named = {"runAsUser", "runAsGroup", "fsGroup"} & set(each.get("securityContext", {}))
                    need(f"{name} on OpenShift", not named, f"{workload['metadata']['name']} has {named}")
    for deployment in _of(build(kubernetes / "base"), "Deployment"):
        for volume in deployment["spec"]["template"]["spec"]["volumes"]:
            mode = volume.get("secret", {}).get("defaultMode", 0o444)
            need("base", mode & 0o004 > 0, f"only some users can read {volume['name']}")


def _image_leaves_settings_alone() -> None:
    """Check that the image's environment, which overrides every file, sets nothing."""
    dockerfile = (DEPLOY / "container/Dockerfile").read_text("utf-8")
    need("Dockerfile", not re.search(r"AOS_GATEWAY_\w+=", dockerfile), "it overrides configuration files")


def _unit_is_right() -> None:
    where = "aos-gateway.service"
    text = (DEPLOY / "systemd/aos-gateway.service").read_text("utf-8")
    need(where, float(_setting(text, "TimeoutStopSec")) > DEFAULT_DRAIN_S, "it is killed while it drains")
    need(where, int(_setting(text, "LimitNOFILE")) > 20_000, "too few descriptors")
    need(where, _setting(text, "RestartPreventExitStatus") == "2", "it restarts for ever")
    need(where, _setting(text, "Type") == "notify", "systemd is not notified when it is ready")
    need(where, int(_setting(text, "WatchdogSec")) > 0, "there is no watchdog")
    need(where, _setting(text, "ExecReload") == "/bin/kill -HUP $MAINPID", "it cannot be reloaded")
    need(where, "aos-gateway.socket" in _setting(text, "Requires"), "it may start without its socket")
    for path in (DEPLOY / "systemd").glob("*"):
        for line in re.findall(r"^Environment=(\S+)", path.read_text("utf-8"), re.MULTILINE):
            name, _, value = line.partition("=")
            need(
                path.name, value.startswith("%d/") or not _SECRET.search(name), f"{name} is not a credential"
            )


def _setting(text: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    need("aos-gateway.service", found is not None, f"it has no {name}")
    return found[1] if found else ""


def _rules_are_the_tested_ones() -> None:
    """Check that the operator gets the rules that promtool tests."""
    tested = yaml.safe_load((DEPLOY / "monitoring/alerts.yml").read_text("utf-8"))
    (rule,) = _of(build(DEPLOY / "kubernetes/overlays/monitoring"), "PrometheusRule")
    need("monitoring", rule["spec"] == tested, "run python -m tests.references: the rules have changed")
