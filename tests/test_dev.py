"""`./dev`: what it says, what it finds, and what it leaves alone because it is done."""

import ast
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ("run", "test", "browser", "bench", "lint", "setup", "lock")
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of its own around a copy of ./dev, with nothing set up."""
    (tmp_path / "dev").write_bytes((ROOT / "dev").read_bytes())
    (tmp_path / "dev").chmod(0o755)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for lock in LOCKS:
        (tmp_path / lock).write_text("no-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    return tmp_path


@pytest.fixture
def dev(tree: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of that project as a module."""
    for name in ("AOS_GATEWAY_PYTHON", "AOS_GATEWAY_VENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("dev", str(tree / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AOS_GATEWAY_")}
    return kept | more


def call(tree: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tree / "dev"), *arguments]
    return subprocess.run(
        command,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def pretend_ready(tree: Path, dev: ModuleType, level: str) -> None:
    """Lay out a .venv that is ready, with programs that print what they are called with."""
    for program in ("python", "aos-gateway"):
        write_program(tree / ".venv/bin" / program, f'echo {program} "$@"\n')
    stamp = dev.stamp_wanted(level, str(tree / ".venv/bin/python"))
    (tree / ".venv/.dev-stamp.json").write_text(json.dumps(stamp))


def test_the_help_names_every_command(tree: Path) -> None:
    done = call(tree, "--help")
    assert done.returncode == 0
    assert re.findall(r"^  (\w+) .* {2}", done.stdout, re.MULTILINE)[: len(COMMANDS)] == list(COMMANDS)


def test_without_a_command_the_help_is_an_error(tree: Path) -> None:
    done = call(tree)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ./dev")


def test_without_a_chromium_the_page_is_not_tested_and_one_line_says_what_to_install(tree: Path) -> None:
    done = call(tree, "browser", PATH=str(tree))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "apt install chromium chromium-driver" in done.stderr


@pytest.mark.parametrize("arguments", [("measure",), ("lint", "gateway"), ("setup", "now")])
def test_wrong_usage_is_one_line_and_code_2(tree: Path, arguments: tuple[str, ...]) -> None:
    done = call(tree, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert arguments[0] in done.stderr
    assert "./dev --help" in done.stderr


def test_a_python_too_old_for_the_project_can_read_the_script() -> None:
    ast.parse((ROOT / "dev").read_text(), feature_version=(3, 6))


READY = {"place": "a", "python": "p", "locks": "l", "project": "t", "level": "dev"}
ANEW = ["venv", "packages", "project"]


@pytest.mark.parametrize(
    ("found", "wanted", "steps"),
    [
        ({}, READY, ANEW),
        (READY, READY, []),
        (READY, READY | {"level": "run"}, []),
        (READY | {"level": "run"}, READY, ["packages"]),
        (READY, READY | {"level": "bench"}, ["packages"]),
        (READY | {"level": "bench"}, READY, []),
        (READY, READY | {"project": "other"}, ["project"]),
        (READY | {"level": "run"}, READY | {"project": "other"}, ["packages", "project"]),
        (READY, READY | {"locks": "other"}, ANEW),
        (READY, READY | {"python": "other"}, ANEW),
        (READY, READY | {"place": "moved"}, ANEW),
    ],
)
def test_only_what_is_missing_is_done(
    dev: ModuleType, found: dict[str, str], wanted: dict[str, str], steps: list[str]
) -> None:
    assert dev.steps_between(found, wanted) == steps


@pytest.mark.parametrize(
    ("file", "steps"), [("pyproject.toml", ["project"]), *((lock, ANEW) for lock in LOCKS)]
)
def test_a_changed_project_file_is_noticed(tree: Path, dev: ModuleType, file: str, steps: list[str]) -> None:
    pretend_ready(tree, dev, "dev")
    assert dev.steps_missing("dev", None) == []
    (tree / file).write_text("# changed\n")
    assert dev.steps_missing("dev", None) == steps


@pytest.mark.parametrize("lost", [".dev-stamp.json", "bin/python", "bin/aos-gateway"])
def test_an_incomplete_venv_is_made_again(tree: Path, dev: ModuleType, lost: str) -> None:
    pretend_ready(tree, dev, "dev")
    (tree / ".venv" / lost).unlink()
    assert dev.steps_missing("dev", None) == ANEW


def test_another_requested_python_makes_the_venv_again(tree: Path, dev: ModuleType) -> None:
    pretend_ready(tree, dev, "dev")
    assert dev.steps_missing("dev", dev.Python(str(tree / ".venv/bin/python"), "3.11.7")) == []
    assert dev.steps_missing("dev", dev.Python("/other/python3.13", "3.13.0")) == ANEW


def test_a_second_start_goes_straight_to_the_program(tree: Path, dev: ModuleType) -> None:
    pretend_ready(tree, dev, "dev")
    done = call(tree, "run", "--profile", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "aos-gateway demo --profile a b\n", "")
    done = call(tree, "test", "-k", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "python -m pytest -k x\n", "")


@pytest.mark.parametrize("arguments", [(), ("--cov", "--cov-fail-under=100")], ids=["all", "coverage"])
def test_all_tests_run_on_all_cores(tree: Path, dev: ModuleType, arguments: tuple[str, ...]) -> None:
    pretend_ready(tree, dev, "dev")
    done = call(tree, "test", *arguments)
    processes = len(os.sched_getaffinity(0)) + 1
    expected = " ".join([f"python -m pytest -n {processes} --dist worksteal", *arguments])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


def test_what_is_for_measurements_alone_is_installed_for_them_alone(tree: Path, dev: ModuleType) -> None:
    pretend_ready(tree, dev, "bench")
    done = call(tree, "bench", "--quick")
    assert (done.returncode, done.stdout, done.stderr) == (0, "python -m benchmarks --quick\n", "")
    assert dev.steps_missing("dev", None) == []
    assert not {"matplotlib", "rich", "aiohttp-client-cache"} & pins("requirements-dev.lock").keys()


def test_a_start_waits_for_another_that_is_setting_up(tree: Path, dev: ModuleType) -> None:
    with (tree / ".dev.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, str(tree / "dev"), "run"]
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as start:
            assert start.stderr is not None
            assert "waiting for another start" in start.stderr.readline()
            pretend_ready(tree, dev, "run")
            fcntl.flock(lock, fcntl.LOCK_UN)
            output, errors = start.communicate(timeout=20)
    assert (start.returncode, output, errors) == (0, "aos-gateway demo\n", "")


def test_a_failed_installation_shows_its_last_lines_and_leaves_no_stamp(tree: Path) -> None:
    half_made = write_program(tree / ".venv/bin/left-over", "")
    done = call(tree, "setup", PIP_NO_INDEX="1", PIP_NO_CACHE_DIR="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "could not make the packages of requirements-dev.lock" in done.stderr
    assert "no-such-package" in done.stderr
    assert not half_made.exists()
    assert not (tree / ".venv/.dev-stamp.json").exists()


def test_a_folder_with_other_things_in_it_is_not_cleared(tree: Path) -> None:
    (tree / "gateway").mkdir()
    (tree / "gateway/__init__.py").touch()
    done = call(tree, "setup", AOS_GATEWAY_VENV="gateway")
    assert done.returncode == 1
    assert "AOS_GATEWAY_VENV" in done.stderr
    assert (tree / "gateway/__init__.py").exists()


def test_a_missing_project_file_is_named(tree: Path) -> None:
    (tree / "requirements.lock").unlink()
    done = call(tree, "run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "requirements.lock" in done.stderr


def test_a_broken_shim_is_skipped(
    tree: Path, dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_program(tmp_path / "shims/python3.11", "echo 'not selected' >&2\nexit 127\n")
    write_program(tmp_path / "real/python3.11", f'exec {sys.executable} "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'real'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "shims/python3.11"))
    python = dev.find_python()
    assert python.version == ".".join(str(number) for number in sys.version_info[:3])
    # Outside of the virtual environment that the tests may run in.
    assert os.path.realpath(python.path).startswith(os.path.realpath(sys.base_prefix))


def test_a_python_of_pyenv_is_found_without_being_selected(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_program(tmp_path / "versions/3.11.9/bin/python3.11", f'exec {sys.executable} "$@"\n')
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("AOS_GATEWAY_PYTHON", "3.11")
    assert dev.find_python().version.startswith("3.")


def answer(version: str, *missing: str, implementation: str = "cpython") -> str:
    numbers = [int(number) for number in version.split(".")]
    return f"echo '{json.dumps(['/some/python', numbers, implementation, missing])}'\n"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("exit 127\n", "does not start"),
        ("echo nonsense\n", "does not start"),
        (answer("3.10.4"), "is 3.10.4"),
        (answer("3.11.9", implementation="pypy"), "is pypy"),
        (answer("3.11.2", "ensurepip"), "apt install python3.11-venv"),
        (answer("3.12.1", "_ssl"), "is 3.12.1 without _ssl"),
    ],
)
def test_an_unsuitable_python_is_one_line(tree: Path, program: str, said: str) -> None:
    path = write_program(tree / "python", program)
    done = call(tree, "run", AOS_GATEWAY_PYTHON=str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(path) in done.stderr
    assert said in done.stderr


def test_a_tested_python_is_preferred_to_a_later_one(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_program(tmp_path / "python3", answer("3.99.0"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert dev.find_python().version == "3.99.0"
    write_program(tmp_path / "python3.12", answer("3.12.1"))
    assert dev.find_python().version == "3.12.1"


def pins(lock: str) -> dict[str, str]:
    """The locked versions by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_holds_pins_and_hashes_and_nothing_else(lock: str) -> None:
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    form = re.compile(r"[a-z0-9-]+==\S+(?: ; [\w .<>=!']+?)?(?: +--hash=sha256:[0-9a-f]{64})+ *")
    assert [line for line in text.splitlines() if not form.fullmatch(line)] == []


def test_the_locks_are_complete() -> None:
    # Nothing that they leave out would be installed; this runs in what was installed from one.
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n")


def test_what_runs_is_what_was_tested() -> None:
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()
    assert pins("requirements-dev.lock").items() <= pins("requirements-bench.lock").items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    for lock, wanted in (
        ("requirements.lock", [*project["project"]["dependencies"], *groups["build"]]),
        ("requirements-dev.lock", [each for each in groups["dev"] if isinstance(each, str)]),
        ("requirements-bench.lock", [each for each in groups["bench"] if isinstance(each, str)]),
    ):
        names = {re.split(r"[<>=;! \[]", each)[0] for each in wanted}
        assert names <= pins(lock).keys()
