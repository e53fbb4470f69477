"""Each command of the README is run as it stands; the simulated AOS takes the place of a real one.

The commands of deploy/README.md are tried by deploy/check, as far as that goes without engine and cluster,
and those for systemd done by deploy/fresh-machine; the one that asks an AOS is here.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.place import TOKEN, call
from tests.testbed.address import free_port
from tests.testbed.webdriver import until

pytestmark = pytest.mark.operation

ROOT = Path(__file__).resolve().parent.parent
_START_S = 15.0
_RUN_S = 15.0

# These would start a whole run inside this one: CI runs them.
RUN_BY_CI = {
    "./dev test": "./dev test",
    "./dev test -m operation": "./dev test -m operation",
    "./dev lint": "./dev lint",
    "./dev browser": "./dev browser",
    "deploy/check": "deploy/check",
}
# These take minutes: only their options are checked.
ASKED_FOR_HELP = {"./dev bench --quick"}
COLLECTED = {"./dev test tests/core", "./dev test --long"}

_CURL = """\
#!{python}
# Stands in for curl where there is none: one GET, with -i and -H.
import http.client, sys, urllib.parse
words, fields, url = sys.argv[1:], {{}}, ""
while words:
    word = words.pop(0)
    if word == "-H":
        name, _, value = words.pop(0).partition(": ")
        fields[name] = value
    elif word != "-i":
        url = urllib.parse.urlsplit(word)
connection = http.client.HTTPConnection(url.netloc, timeout=5)
connection.request("GET", url.path, headers=fields)
answer = connection.getresponse()
if "-i" in sys.argv:
    print("HTTP/1.1", answer.status, answer.reason)
    print(answer.headers)
sys.stdout.write(answer.read().decode())
"""


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


class Stage:
    """A simulated AOS with one execution that has ended, and room for a gateway of the README's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in ("8080", "9901", "twin")}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AOS_")},
            "TOKEN": TOKEN,
            "PATH": f"{self._tools()}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start the simulated AOS and run an execution to its end, straight there."""
        port = int(self.addresses["twin"].rpartition(":")[2])
        self.begin(
            f"{sys.executable} -m gateway twin --profile load --listen {self.addresses['twin']}",
            lambda: call(port, "GET", "/v2/stacks") is not None,
        )
        stack = {"name": "readme", "template_id": "readme-template", "cluster_id": "readme-cluster"}
        stack_id = call(port, "POST", "/v2/stacks", stack)["guid"]
        started = call(port, "PUT", f"/v2/stacks/{stack_id}/actions", {"lifecycle": "create"})
        path = f"/v2/stacks/{stack_id}/actions/{started['action_id']}"
        ended = ("Succeeded", "Failed", "Cancelled")
        until(lambda: call(port, "GET", path)["status"]["objectStatus"]["phase"] in ended, _START_S)
        # The tag of a record that has changed since.
        self._environ |= {"STACK": stack_id, "ACTION": started["action_id"], "ETAG": '"former"'}
        (self.folder / "my.toml").write_text(f'[upstream]\nurl = "http://{self.addresses["twin"]}"\n')

    def close(self) -> None:
        """End what runs."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()

    def substituted(self, line: str) -> str:
        """Return a command with the addresses of this stage and the Python that runs the tests."""
        line = line.replace("https://aos.example.com", f"http://{self.addresses['twin']}")
        line = line.replace("127.0.0.1:8080", self.addresses["8080"])
        line = line.replace("127.0.0.1:9901", self.addresses["9901"])
        line = line.replace("my.toml", str(self.folder / "my.toml"))
        return line.replace(".venv/bin/aos-gateway", f"{sys.executable} -m gateway")

    def begin(self, line: str, is_up: Callable[[], object]) -> None:
        """Start a command that goes on."""
        self._processes.append(
            subprocess.Popen(
                ["bash", "-euc", f"exec {line}"],
                cwd=ROOT,
                env=self._environ,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

        def answers() -> object:
            try:
                return is_up()
            except OSError:
                return False

        until(answers, _START_S)

    def serve(self, command: str) -> None:
        """Start the README's gateway on free addresses, and wait until it is ready."""
        listen, admin = self.addresses["8080"], self.addresses["9901"]
        port = int(admin.rpartition(":")[2])
        self.begin(
            f"{command} --listen {listen} --admin {admin}", lambda: call(port, "GET", "/readyz")["ready"]
        )

    def run(self, line: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def _tools(self) -> Path:
        tools = self.folder / "tools"
        tools.mkdir()
        if not shutil.which("curl"):
            (tools / "curl").write_text(_CURL.format(python=sys.executable))
            (tools / "curl").chmod(0o755)
        return tools


def _commands() -> list[str]:
    """Return the lines of the README's shell blocks without their comments."""
    text = (ROOT / "README.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [re.sub(r"\s+# .*$", "", line).strip() for line in lines]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with a simulated AOS."""
    stage = Stage(tmp_path_factory.mktemp("readme"))
    try:
        stage.start()
        yield stage
    finally:
        stage.close()


@pytest.mark.timeout(90)
def test_every_command_of_the_readme_does_what_it_says(stage: Stage) -> None:
    ci = (ROOT / ".ci/run").read_text("utf-8")
    hits: list[str] = []
    for line in _commands():
        command = stage.substituted(line)
        if line in RUN_BY_CI:
            assert RUN_BY_CI[line] in ci
        elif line in ASKED_FOR_HELP:
            module = line.split()[1].replace("bench", "benchmarks")
            done = stage.run(f"{sys.executable} -m {module} --help")
            assert line.split()[-1] in done.out, done.err
        elif line in COLLECTED:
            arguments = line.removeprefix("./dev test ")
            done = stage.run(
                f"{sys.executable} -m pytest --collect-only -q {arguments} tests/core/aos/test_route.py"
            )
            assert done.code == 0, done.out
        elif line == "./dev setup":
            assert " setup " in stage.run("./dev --help").out
        elif line == "./dev run":
            _demo_to_its_end(stage)
        elif line.startswith("sed "):
            assert stage.run(command).code == 0
        elif " serve " in line:
            stage.serve(command)
        elif line.startswith("curl"):
            done = stage.run(command)
            assert done.code == 0, done.err
            if "X-Auth-Token" in line:
                assert done.out.startswith("HTTP/1.1 200")
                assert ("Preference-Applied: wait=50" in done.out) == ("Prefer: wait=50" in line)
                hits.append(re.findall(r"(?i)^cache-status: (.*?)\r?$", done.out, re.MULTILINE)[0])
            else:
                assert {"readyz": '"ready":true', "metrics": "# TYPE"}[line.rpartition("/")[2]] in done.out
        elif re.match(r"(AOS_TOKEN=\$TOKEN )?\.venv/bin/aos-gateway (check|purge|wait) ", line):
            done = stage.run(command)
            assert (done.code, done.err) == (0, ""), line
            assert done.out
        else:
            pytest.fail(f"there is no rule to try {line!r}")
    assert hits[0].startswith("aos-gateway; fwd=uri-miss; fwd-status=200; stored")
    assert hits[1].startswith("aos-gateway; hit; ttl=")


def test_the_runbooks_probe_of_aos_works(stage: Stage) -> None:
    text = (ROOT / "deploy/README.md").read_text("utf-8")
    (line,) = re.findall(r"^AOS_TOKEN=.*$", text, re.MULTILINE)
    line = line.replace("/etc/aos-gateway/gateway.toml", "my.toml")
    done = stage.run(stage.substituted(line.replace(" aos-gateway ", " .venv/bin/aos-gateway ")))
    assert (done.code, done.err) == (0, "")
    assert "would be stored" in done.out


def _demo_to_its_end(stage: Stage) -> None:
    """Run the demo to its end, as `./dev run` does once .venv stands; try the first command it prints."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gateway", "demo", "--identity", "user"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    begun_s = time.monotonic()
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if re.fullmatch(r"How it is doing: open http://127\.0\.0\.1:\d+/ in a browser\.\n", line):
                break
            assert time.monotonic() - begun_s < 40
        else:
            pytest.fail("the demo ended without saying where the page is")
        shown = "".join(lines)
        assert "from the gateway: hit" in shown
        ((calls, polls),) = re.findall(r"Succeeded .* AOS saw (\d+) calls, .* (\d+)\n", shown)
        assert 10 * int(calls) <= int(polls)
        # Of the second execution, which the other token has never asked for.
        (last,) = re.findall(r"Now the same user's other token.*?(from \S+ \S+): hit", shown, flags=re.S)
        assert last == "from the gateway"
        assert len(lines) < 36, "one screen"
        command = next(line for line in lines if line.startswith("  curl "))
        assert re.search(r"(?im)^cache-status: aos-gateway; hit", stage.run(command).out)
    finally:
        process.terminate()
        process.stdout.close()
        process.wait()


def test_the_commands_of_the_measurements_are_known(stage: Stage) -> None:
    text = (ROOT / "benchmarks/README.md").read_text("utf-8")
    options: dict[str, set[str]] = {}
    for line in text.splitlines():
        for command in re.findall(r"(?:^|`)((?:\./dev bench|python -m [\w.]+)[^`]*)", line):
            module = "benchmarks" if command.startswith("./dev") else command.split()[2]
            # What a row of the table says of options is about its command.
            options.setdefault(module, set()).update(re.findall(r"(?<![\w-])--[a-z-]+", line))
    assert len(options) > 5
    for module, named in options.items():
        done = stage.run(f"{sys.executable} -m {module} --help")
        assert done.code == 0, done.err
        assert named <= {*re.findall(r"--[a-z-]+", done.out)}, module


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "SECURITY.md",
        "benchmarks/README.md",
        "deploy/README.md",
        "examples/README.md",
        "gateway/README.md",
    ],
)
def test_links_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (here / target).exists(), target


def test_the_picture_of_the_page_is_small() -> None:
    picture = (ROOT / "deploy/images/page.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000
