"""Processes are started, watched, and ended whatever happens."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import tree
from benchmarks.harness.processes import Processes, StartError, gateway_environment, pinned, uninterrupted

SLEEPS = "import signal, time; {ignore}; open(r'{mark}', 'w').close(); time.sleep(60)"
FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


def sleeper(mark: Path, *, ignores: bool = False) -> str:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else "None"
    return SLEEPS.format(ignore=ignore, mark=mark)


def test_a_line_of_the_kernel_is_read_whatever_the_name_in_it() -> None:
    fields = ["S", "7", *["0"] * 9, "150", "50", "20", "30", *["0"] * 4, "777", "0", "10", *["0"] * 20]
    one = tree.parse_stat(f"42 (a (b) c) {' '.join(fields)}")
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert (one.pid, one.parent, one.began) == (42, 7, 777)
    assert one.cpu_s == pytest.approx(250 * tick_s)
    assert one.rss_bytes == 10 * os.sysconf("SC_PAGE_SIZE")


def test_leaving_the_block_ends_the_whole_family_also_one_that_does_not_listen(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with Processes() as processes:
        code = sleeper(mark, ignores=True)
        child = processes.start("family", [sys.executable, "-c", FAMILY, code], ready=mark.exists)
        family = tree.tree(child.pid)
        folder = processes.folder
        assert len(family) == 2
        assert child.rss_bytes() > 1_000_000
    assert [one.pid for one in family if tree.lives(one)] == []
    assert not folder.exists()


def test_an_error_in_the_block_ends_them_too(tmp_path: Path) -> None:
    pids = []

    def measure() -> None:
        with Processes() as processes:
            child = processes.start(
                "one", [sys.executable, "-c", sleeper(tmp_path / "m")], ready=(tmp_path / "m").exists
            )
            pids.append(child.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert tree.stat(pids[0]) is None


def test_a_failed_start_is_reported_with_the_end_of_its_log() -> None:
    with Processes() as processes, pytest.raises(StartError, match="broken ended at once: no, not today"):
        processes.start("broken", [sys.executable, "-c", "exit('no, not today')"], ready=lambda: False)


def test_one_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    with Processes() as processes:
        with pytest.raises(StartError, match="slow was not ready within"):
            processes.start(
                "slow", [sys.executable, "-c", sleeper(tmp_path / "m")], ready=lambda: False, timeout_s=0.05
            )
        assert processes.children == ()


def test_cpu_time_counts_children_that_have_ended() -> None:
    burn = "import time; ends = time.process_time() + 0.15\nwhile time.process_time() < ends: pass"
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}])"
    code += "; print('done', flush=True); time.sleep(60)"
    with Processes() as processes:
        child = processes.start("parent", [sys.executable, "-c", code])
        deadline_s = time.monotonic() + 10
        while "done" not in child.output() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        # The system counts ticks of 10 ms, rounded down for each of four numbers.
        assert child.cpu_s() >= 0.1


def test_a_killed_process_is_gone_at_once(tmp_path: Path) -> None:
    with Processes() as processes:
        child = processes.start(
            "one",
            [sys.executable, "-c", sleeper(tmp_path / "m", ignores=True)],
            ready=(tmp_path / "m").exists,
        )
        child.kill()
        assert child.exit_code == -signal.SIGKILL


def test_what_is_pinned_runs_on_one_core_and_the_harness_goes_on_everywhere() -> None:
    cores = os.sched_getaffinity(0)
    core = min(cores)
    with pinned(core):
        assert os.sched_getaffinity(0) == {core}
    with pinned(max(cores) + 1000):
        assert os.sched_getaffinity(0) == cores
    assert os.sched_getaffinity(0) == cores


def test_an_interruption_waits_until_what_must_not_be_interrupted_is_over() -> None:
    done = []

    def interrupted() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest")
        done.append("too much")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_settings_become_the_gateways_environment_and_those_of_the_caller_stay_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gateway_environment({"cache.memory_bytes": "0"}) == {"AOS_GATEWAY_CACHE__MEMORY_BYTES": "0"}
    monkeypatch.setenv("AOS_GATEWAY_REDIS__URL", "redis://elsewhere")
    code = "import os; print([name for name in os.environ if name.startswith('AOS_GATEWAY_')])"
    with Processes() as processes:
        child = processes.start("env", [sys.executable, "-c", code], env={"AOS_GATEWAY_LOG__LEVEL": "info"})
        assert child.wait(10) == 0
        assert child.output() == "['AOS_GATEWAY_LOG__LEVEL']\n"
