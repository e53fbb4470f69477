"""The checks of `deploy/check` on built files: are they valid, and is the runbook true of them?

python -m deploy.check_built compose | kubernetes FOLDER | promises | commands
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from deploy.built import DEPLOY, ROOT, TOOLS, Wrong, build, need
from deploy.promises import DEFAULT_DRAIN_S, promises

# The oldest with a sleeping preStop, one in between, the newest that the validator knows.
VERSIONS = ("1.30", "1.33", "1.37")
# Kinds of the Prometheus operator, unknown to Kubernetes.
FOREIGN = {"PodMonitor", "PrometheusRule"}
# Options of Docker's commands, from its reference: there is no engine here.
DOCKER = {
    "docker build": {"--tag"},
    "up": {"--build", "--scale"},
    "kill": {"--signal"},
    "restart": set[str](),
}
DOCKER_GLOBAL = {"--file"}
TRIED_BY_TESTS = {
    # tests/test_readme.py, which has an AOS to ask.
    "AOS_TOKEN=$TOKEN aos-gateway check --config /etc/aos-gateway/gateway.toml --probe $STACK $ACTION",
}


def main(arguments: list[str]) -> int:
    """Run one check; its name is the first argument."""
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
    """Check the compose file against the specification, references between its parts included."""
    from compose_spec import PyCompose

    found = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text("utf-8"))
    # The parser takes no merge keys; PyYAML has undone them.
    PyCompose.from_yaml(yaml.safe_dump(found)).validate()
    for name, service in found["services"].items():
        where = f"compose: {name}"
        need(where, service.get("read_only") is True, "its root is not read-only")
        need(where, service.get("cap_drop") == ["ALL"], "it keeps capabilities")
        need(where, "no-new-privileges:true" in service.get("security_opt", []), "it may gain privileges")
        need(where, {"mem_limit", "pids_limit", "logging"} <= set(service), "it has no bounds")
        for other, dependency in service.get("depends_on", {}).items():
            needed = found["services"][other]
            need(where, dependency["condition"] == "service_healthy", f"it does not wait for {other}")
            need(where, "test" in needed.get("healthcheck", {}), f"{other} has no health check")
    gateway = found["services"]["gateway"]
    grace_s = float(gateway["stop_grace_period"].removesuffix("s"))
    need("compose: gateway", grace_s > DEFAULT_DRAIN_S, "it is killed while it drains")
    for name, value in gateway["environment"].items():
        is_secret = re.search(r"SECRET|TOKEN|PASSWORD", name) is not None
        need("compose", not is_secret or name.endswith("_FILE"), f"{name} holds a secret itself")
        need("compose", "@" not in str(value), f"{name} holds credentials")
    # Compose would copy others into the container, which fails with a read-only root.
    for secret in gateway["secrets"]:
        need("compose: gateway", "file" in found["secrets"][secret], f"{secret} is not a file")
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


def commands() -> None:
    """Try each command of the runbook, as far as possible without engine, cluster and service manager."""
    text = (DEPLOY / "README.md").read_text("utf-8")
    for title, section in re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE):
        for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL):
            for line in _joined(block):
                _try(title, line)
    for path in re.findall(r"deploy/[a-z0-9_./-]+[a-z0-9]", text):
        is_made = path.startswith("deploy/container/secrets")
        need("deploy/README.md", is_made or (ROOT / path).exists(), f"there is no {path}")


def _try(title: str, line: str) -> None:
    """Try one command; raise when it is of an unknown kind."""
    if "kubectl " in line:
        _shell(_offline(line))
    elif "docker " in line:
        _docker(line)
    elif "systemctl " in line:
        # --help is read after the other options, so unknown ones are errors.
        for part in line.removeprefix("sudo ").split(" && sudo "):
            _shell(f"{part} --help")
    elif line.startswith(("install ", "openssl ")) and " sudo " not in line:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "deploy/container/secrets").mkdir(parents=True)
            _shell(line, Path(folder))
    elif title == "systemd":
        # deploy/fresh-machine runs it.
        _shell(f"bash -n <<'LINE'\n{line}\nLINE")
    else:
        need(line, line in TRIED_BY_TESTS, "there is no rule to try it")


def _docker(line: str) -> None:
    """Check a Docker command without an engine: the subcommand and its options."""
    words = shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", line))
    known = next((name for name in DOCKER if f" {name} " in f" {' '.join(words)} "), "")
    need(line, words[0] == "docker" and bool(known), "no such command")
    for option in (word for word in words if word.startswith("-")):
        need(line, option in DOCKER[known] or option in DOCKER_GLOBAL, f"{known} has no {option}")


def _offline(line: str) -> str:
    """Return the part of a kubectl command that works without a cluster."""
    if " create secret " in line:
        return line + " --dry-run=client --output=yaml"
    if applied := re.fullmatch(r"kubectl apply -k (\S+)", line):
        return f"kubectl kustomize {applied[1]}"
    # This still parses the command and its options.
    return line.replace(" -- ", " --help -- ") if " -- " in line else f"{line} --help"


def _joined(block: str) -> list[str]:
    return [line for line in map(str.strip, block.replace("\\\n", " ").splitlines()) if line]


def _shell(command: str, folder: Path = ROOT) -> None:
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={"PATH": f"{TOOLS}:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    need(command, done.returncode == 0, done.stderr.strip())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Wrong as wrong:
        print(wrong)
        sys.exit(1)
