"""The command line, run as its users run it: exit codes, one-line errors, help."""

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli.main import main
from gateway.config.model import SECTIONS

_ROOT = Path(__file__).parents[2]
_UPSTREAM = ("--upstream", "http://127.0.0.1:9")


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AOS_", "PYTHON"))}
    # argparse wraps its help to the width of the terminal.
    return {**clean, "PYTHONPATH": str(_ROOT), "COLUMNS": "100", **environ}


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=_environment(environ),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def _refusal(*arguments: str, **environ: str) -> str:
    """Run a command that has to be refused and return its one line."""
    result = _run(*arguments, **environ)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("aos-gateway: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# Help and version.


def test_the_version_is_the_one_of_the_project() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]
    result = _run("--version")
    assert (result.returncode, result.stdout) == (0, f"aos-gateway {__version__}\n")


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    result = _run("--help")
    assert result.returncode == 0
    for word in ("serve", "twin", "demo", "check", "purge", "wait", "first steps:", "exit codes: 0 clean, 2"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "serve",
            "--config --listen --admin --upstream --redis --scope --workers 127.0.0.1:8080 127.0.0.1:9901 "
            "AOS_GATEWAY_<SECTION>__<KEY> AOS_GATEWAY_CACHE__SECRET_FILE config/gateway.toml examples:",
        ),
        ("twin", "--listen --control --profile --seed 127.0.0.1:8090 demo, realistic throttled examples:"),
        ("demo", "simulated curl Ctrl-C"),
        ("check", "--config --probe --iam --redis AOS_TOKEN examples:"),
        (
            "wait",
            "--gateway --timeout --token-file --json STACK ACTION 127.0.0.1:8080 20m AOS_TOKEN examples:",
        ),
        ("purge", "--admin STACK_ID 127.0.0.1:9901 AOS_GATEWAY_SERVER__ADMIN_TOKEN examples:"),
    ],
)
def test_the_help_of_a_command_names_its_options_defaults_and_examples(command: str, words: str) -> None:
    result = _run(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert [word for word in words.split() if word not in result.stdout] == []
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_the_profiles_in_the_help_of_the_twin_are_those_there_are() -> None:
    from gateway.twin.profiles import PROFILES

    *names, last = PROFILES
    assert f"{', '.join(names)} or {last}" in _run("twin", "--help").stdout


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("gateway.cli.main, gateway.config.load", {"aiohttp", "redis", "uvloop", "asyncio", "ssl"}),
        ("gateway.cli.check, gateway.cli.purge, gateway.cli.wait, gateway.server.run", {"gateway.twin"}),
    ],
)
def test_a_command_loads_nothing_it_does_not_need(imported: str, unwanted: set[str]) -> None:
    code = f"import sys, {imported}; print([name for name in sys.modules if name in {unwanted}])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment({}),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert result.stdout == "[]\n"


# Exit code 2 and one line.


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        ("", "the following arguments are required: COMMAND; see aos-gateway --help"),
        ("serv", "invalid choice: 'serv'"),
        (
            "serve --upstrem x",
            "unknown option --upstrem; did you mean --upstream?; see aos-gateway serve --help",
        ),
        ("serve --redi=redis://:s3cret@h", "unknown option --redi; did you mean --redis?"),
        ("serve --admin-listen x", "unknown option --admin-listen; did you mean --admin?"),
        ("serve --port 80", "unknown option --port; see aos-gateway serve --help"),
        ("purge --admn 127.0.0.1:1 s", "unknown option --admn; did you mean --admin?"),
        ("check --upstream x", "--upstream is an option of serve; write it behind that command"),
        ("--redis redis://:s3cret@h serve", "--redis is an option of serve and check; write it behind that"),
        ("--config f serve", "--config is an option of serve and check; write it behind that command"),
        ("serve redis://:s3cret@h", "1 argument too many; see aos-gateway serve --help"),
        ("purge one two three", "2 arguments too many; see aos-gateway purge --help"),
        ("serve --listen", "--listen: expected one argument; see aos-gateway serve --help"),
        ("serve --two\nlines\x1b", "unknown option --two?lines?"),
        ("check --probe only-one", "--probe: expected 2 arguments; see aos-gateway check --help"),
        ("twin --seed x", "--seed: invalid int value: 'x'; see aos-gateway twin --help"),
        ("wait s", "the following arguments are required: ACTION; see aos-gateway wait --help"),
        ("purge", "the following arguments are required: STACK_ID; see aos-gateway purge --help"),
        *(
            (f"purge {wrong}", f"STACK_ID = {wrong!r} is not a stack id; write one stack's whole id")
            for wrong in ("", "s" * 65, "*", "my-*", "..", "a/b", "http://aos", "栈")
        ),
        ("purge --admin x s", "address 'x': has no port"),
        ("purge --admin 127.0.0.1:0 s", "--admin 127.0.0.1:0 has port 0; write the port of"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: str, piece: str
) -> None:
    with pytest.raises(SystemExit, match=r"\A2\Z"):
        sys.exit(main(arguments.split(" ") if arguments else []))
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("aos-gateway: ")
    assert found.err.count("\n") == 1
    assert piece in found.err
    assert "s3cret" not in found.err


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (["serve"], "upstream.url is missing; give serve --upstream URL"),
        (["check"], "upstream.url is missing"),
        (
            ["serve", "--upstream", "http://u:s3cret@aos"],
            "upstream.url = 'http://***@aos' (from command line) h",
        ),
        (["serve", *_UPSTREAM, "--listen", "a\nb:80"], "server.listen = 'a\\nb:80'"),
        (["serve", *_UPSTREAM, "--admin", "unix:x"], "server.admin_listen = 'unix:x'"),
        (["serve", *_UPSTREAM, "--redis", "redis://s3cret@h"], "redis.url = ***"),
        (["serve", *_UPSTREAM, "--workers", "-1"], "server.workers = -1"),
        (
            ["serve", *_UPSTREAM, "--scope", "shared", "--listen", "0.0.0.0:8080"],
            'cache.scope = "shared" on server.listen = 0.0.0.0:8080',
        ),
        (["check", "--config", "/nowhere.toml"], "'/nowhere.toml' can't be read (No such file"),
        (["twin", "--listen", "x"], "address 'x': has no port; write host:port"),
        (["twin", "--control", "x"], "address 'x': has no port"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(arguments: Sequence[str], piece: str) -> None:
    line = _refusal(*arguments)
    assert piece in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("command", "environ", "pieces"),
    [
        (
            "serve",
            {"AOS_GATEWAY_CACHE__SCOP": "s3cret"},
            ["AOS_GATEWAY_CACHE__SCOP;", "AOS_GATEWAY_CACHE__SCOPE?"],
        ),
        (
            "check",
            {"AOS_GATEWAY_UPSTREAM__URL": "http://aos", "AOS_GATEWAY_LOG__LEVEL": "loud"},
            ["log.level = 'loud' (from AOS_GATEWAY_LOG__LEVEL) is unknown; write \"debug\""],
        ),
        (
            "serve",
            {"AOS_GATEWAY_CACHE__SECRET_FILE": "/nowhere"},
            ["file '/nowhere', named by AOS_GATEWAY_CACHE__SECRET_FILE, can't be read (No such file"],
        ),
    ],
)
def test_a_wrong_environment_is_one_line_and_exit_code_2(
    command: str, environ: dict[str, str], pieces: Sequence[str]
) -> None:
    line = _refusal(command, **environ)
    for piece in pieces:
        assert piece in line
    assert "s3cret" not in line


def test_an_unknown_key_of_the_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[upstream]\nurl = "http://aos"\n[cache]\nsecrt = "s3cret"\n')
    line = _refusal("serve", "--config", str(file))
    assert f"unknown key cache.secrt in {file}; did you mean cache.secret?" in line
    assert "s3cret" not in line


def test_an_address_that_cannot_be_bound_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        remedy = "Address already in use; choose an address that is free"
        line = _refusal("serve", *_UPSTREAM, "--listen", address, "--admin", "127.0.0.1:0")
        assert f"cannot listen on server.listen = {address}: {remedy}" in line
        line = _refusal("serve", *_UPSTREAM, "--listen", "127.0.0.1:0", "--admin", address)
        assert f"cannot listen on server.admin_listen = {address}: {remedy}" in line
    missing = f"unix:{tmp_path}/none/gateway.sock"
    line = _refusal("serve", *_UPSTREAM, "--listen", missing, "--admin", "127.0.0.1:0")
    assert f"cannot listen on server.listen = {missing}: No such file or directory" in line
    file = tmp_path / "precious"
    file.write_text("x")
    for arguments, name in (("serve", *_UPSTREAM), "server.listen = "), (("twin",), ""):
        line = _run(*arguments, "--listen", f"unix:{file}").stderr
        assert (
            f"cannot listen on {name}unix:{file}: what is there is no socket, so it is not replaced" in line
        )
        assert file.read_text() == "x"


def test_a_twin_with_a_taken_port_an_unknown_profile_or_a_public_control_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        results = [
            (_run("twin", "--listen", address), "Address already in use"),
            (_run("twin", "--listen", "127.0.0.1:0", "--profile", "x"), "choose one of demo, load"),
            (_run("twin", "--listen", "127.0.0.1:0", "--control", "0.0.0.0:0"), "0.0.0.0:0"),
        ]
    for result, piece in results:
        assert result.returncode == 2
        assert piece in result.stderr
        assert result.stderr.count("\n") == 1


# Checking.


def test_check_prints_the_effective_configuration_masked(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[upstream]\nurl = "https://AOS.example/base/"\n[cache]\naccess_ttl_s = 0.5\n')
    result = _run(
        "check",
        "--config",
        str(file),
        AOS_GATEWAY_REDIS__URL="redis://s3cret:s3cret@redis.example:6379/1",
        AOS_GATEWAY_CACHE__SECRET="s3cret",
        AOS_GATEWAY_SERVER__ADMIN_TOKEN="s3cret",
        AOS_GATEWAY_SERVER__ADMIN_HOSTS="a.example,b.example",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "s3cret" not in result.stdout
    text, _, last = result.stdout.rstrip("\n").rpartition("\n")
    assert last == "configuration is valid"
    effective = tomllib.loads(text)
    assert list(effective) == list(SECTIONS)
    assert effective["upstream"]["url"] == "https://aos.example/base"
    assert effective["redis"]["url"] == "redis://***@redis.example:6379/1"
    assert effective["cache"]["secret"] == effective["server"]["admin_token"] == "***"
    assert effective["cache"]["access_ttl_s"] == 0.5
    assert effective["cache"]["settle_s"] == 600
    assert effective["cache"]["allow_shared_on_network"] is False
    assert effective["server"]["admin_hosts"] == ["a.example", "b.example"]


def test_a_probe_without_a_token_is_refused() -> None:
    for environ in ({}, {"AOS_TOKEN": ""}):
        line = _refusal(
            "check", "--probe", "s", "a", AOS_GATEWAY_UPSTREAM__URL="http://127.0.0.1:9", **environ
        )
        assert "--probe needs a token; set the environment variable AOS_TOKEN" in line


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "gateway", "check"],
            env=_environment({"AOS_GATEWAY_UPSTREAM__URL": "http://aos"}),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


def test_a_variable_that_resembles_no_setting_is_a_warning(tmp_path: Path) -> None:
    named = "environment variables that name no setting: AOS_GATEWAY_VERSION"
    upstream = {"AOS_GATEWAY_UPSTREAM__URL": "http://aos", "AOS_GATEWAY_VERSION": "s3cret"}
    result = _run("check", **upstream)
    assert (result.returncode, result.stderr) == (0, f"aos-gateway: warning: {named}\n")
    with _serving("--listen", "127.0.0.1:0", admin=tmp_path / "admin.sock", **upstream) as process:
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=10)[1].decode()
    assert [line for line in log.splitlines() if '"WARNING"' in line.upper()] == [
        line for line in log.splitlines() if named in line
    ]
    assert named in log
    assert "s3cret" not in log


# Serving and purging.


@contextmanager
def _serving(*arguments: str, admin: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a gateway until it is ready; it is killed at the end if it still lives."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--admin", f"unix:{admin}", *arguments],
        env=_environment(environ),
        stderr=subprocess.PIPE,
    )
    try:
        deadline_s = time.monotonic() + 15
        while not _is_ready(admin):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def _is_ready(admin: Path) -> bool:
    connection = http.client.HTTPConnection("localhost", timeout=2)
    with socket.socket(socket.AF_UNIX) as connection.sock:
        try:
            connection.sock.settimeout(2)
            connection.sock.connect(str(admin))
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False


def test_a_served_gateway_is_purged_over_its_unix_socket_and_ends_cleanly(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    with _serving(*_UPSTREAM, "--listen", "127.0.0.1:0", admin=admin) as process:
        result = _run("purge", "--admin", f"unix:{admin}", "my-stack")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "invalidated: every stored entry of stack my-stack\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    result = _run("purge", "--admin", f"unix:{admin}", "my-stack")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1


def test_the_sidecar_configuration_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    sidecar = ("--config", str(_ROOT / "config" / "gateway.sidecar.toml"))
    listen = ("--listen", f"unix:{tmp_path}/gateway.sock")
    with _serving(*sidecar, *_UPSTREAM, *listen, admin=tmp_path / "admin.sock") as process:
        found = (tmp_path / "gateway.sock").stat().st_mode
        # The application has a user of its own; connecting takes the right to write.
        assert (stat.S_ISSOCK(found), stat.S_IMODE(found)) == (True, 0o666)
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
