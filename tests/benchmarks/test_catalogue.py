"""What is missing is named with the package to install."""

from pathlib import Path

import pytest

from benchmarks.harness.catalogue import Need, missing_packages
from benchmarks.harness.run_context import RunContext
from benchmarks.report.results import Missing
from benchmarks.scenarios.scenario import parse

TEXT = """
title = "t"
about = "a"
[[contestant]]
kind = "gateway"
[[contestant]]
kind = "lua-redis"
redis = true
[[contestant]]
kind = "varnish"
"""


def test_a_need_is_met_by_a_program_a_file_or_a_module(tmp_path: Path) -> None:
    (tmp_path / "there.so").touch()
    needs = [
        Need("python3", program="sh"),
        Need("nothing", program="no-such-program"),
        Need("module", files=(f"{tmp_path}/no.so", f"{tmp_path}/*.so")),
        Need("lua", files=(f"{tmp_path}/*.lua",)),
        Need("msgspec", module="msgspec"),
        Need("nowhere", module="no_such_module"),
        Need("nothing", files=()),
    ]
    assert missing_packages(needs) == ["nothing", "lua", "nowhere"]


def test_a_peer_that_is_not_installed_is_left_out_by_name_and_with_its_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.harness.catalogue.find_program", lambda name: None)
    monkeypatch.setattr("benchmarks.harness.catalogue.glob.glob", lambda pattern: [])
    context = RunContext("python", lambda text, share: None)
    assert [entry.name for entry in context.present(parse(TEXT, "small"))] == ["gateway"]
    lua = "nginx, libnginx-mod-http-lua, lua-resty-core, lua-cjson, lua-nginx-redis"
    assert context.missing == [
        Missing("nginx + Lua + Redis", "small", f"install {lua}"),
        Missing("Varnish", "small", "install varnish"),
    ]
