"""How many cores there are for a process, from files like those of /proc and of control groups."""

import os
from pathlib import Path

import pytest

from gateway.runtime.cores import cores, quota_cores

V2 = "30 24 0:26 {root} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:29 {root} {at} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "34 32 0:30 {root} {at} rw,nosuid - cgroup cgroup rw,cpuset\n"
BOTH = "12:cpuset:/a\n4:cpu,cpuacct:/a\n0::/a\n"


def proc(folder: Path, cgroup: str, *mounts: str, **files: str) -> Path:
    """Write files; in their names `__` stands for a slash and `x_` for a dot."""
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text("21 20 0:19 / /sys rw - sysfs sysfs rw\nnonsense\n" + "".join(mounts))
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("x_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("cgroup", "mount", "root", "files", "quota"),
    [
        ("0::/a/b\n", V2, "/", {"m__a__b__cpux_max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", V2, "/", {"m__a__b__cpux_max": "max 100000\n"}, None),
        ("0::/a/b\n", V2, "/", {"m__a__b__cpux_max": "max 100000\n", "m__a__cpux_max": "200000 100000\n"}, 2),
        ("0::/a/b\n", V2, "/", {"m__a__b__cpux_max": "100000 50000", "m__a__cpux_max": "50000 100000"}, 0.5),
        ("0::/a/b\n", V2, "/", {"m__a__c__cpux_max": "100000 100000\n"}, None),
        ("0::/\n", V2, "/", {"m__cpux_max": "300000 100000\n"}, 3),
        ("0::/a/b\n", V2, "/a/b", {"m__cpux_max": "300000 100000\n"}, 3),
        ("0::/../c\n", V2, "/", {"m__cpux_max": "300000 100000\n"}, 3),
        ("0::/a\n", V2, "/", {"m__a__cpux_max": "nonsense\n"}, None),
        ("0::/a\n", V2, "/", {"m__a__cpux_max": "1 0\n"}, None),
        (BOTH, V1, "/", {"m__a__cpux_cfs_quota_us": "250000\n", "m__a__cpux_cfs_period_us": "100000\n"}, 2.5),
        (BOTH, V1, "/", {"m__a__cpux_cfs_quota_us": "-1\n", "m__a__cpux_cfs_period_us": "100000\n"}, None),
        (BOTH, V1, "/", {"m__cpux_cfs_quota_us": "100000\n", "m__cpux_cfs_period_us": "100000\n"}, 1),
        (BOTH, V1, "/x", {"m__cpux_cfs_quota_us": "100000\n", "m__cpux_cfs_period_us": "100000\n"}, 1),
        (BOTH, OTHER, "/", {"m__a__cpux_cfs_quota_us": "10", "m__a__cpux_cfs_period_us": "10"}, None),
        ("", V2, "/", {"m__cpux_max": "100000 100000\n"}, None),
    ],
)
def test_the_least_quota_of_all_groups_above_counts(
    tmp_path: Path, cgroup: str, mount: str, root: str, files: dict[str, str], quota: float | None
) -> None:
    assert quota_cores(proc(tmp_path, cgroup, mount.format(root=root, at=tmp_path / "m"), **files)) == quota


def test_of_two_versions_the_lesser_counts_and_mount_points_may_hold_blanks(tmp_path: Path) -> None:
    mounts = [V1.format(root="/", at=f"{tmp_path}/o\\040ne"), V2.format(root="/", at=tmp_path / "two")]
    files = {
        "o ne__a__cpux_cfs_quota_us": "400000",
        "o ne__a__cpux_cfs_period_us": "100000",
        "two__a__cpux_max": "700000 100000",
    }
    assert quota_cores(proc(tmp_path, BOTH, *mounts, **files)) == 4


@pytest.mark.parametrize(("quota", "count"), [("1", 1), ("100000", 1), ("100001", 2), ("99999999", 10**6)])
def test_a_part_of_a_core_counts_as_one_and_affinity_bounds_all(
    tmp_path: Path, quota: str, count: int
) -> None:
    folder = proc(tmp_path, "0::/\n", V2.format(root="/", at=tmp_path), cpux_max=f"{quota} 100000\n")
    assert cores(folder) == min(count, len(os.sched_getaffinity(0)))


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
