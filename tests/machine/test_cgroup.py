"""Control group limits, from files as real systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.machine.cgroup import cpu_quota, memory_room, parse_cpu_max, parse_membership, parse_mounts

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = """\
23 30 0:22 / /proc rw,nosuid shared:14 - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
V1_IN_DOCKER = "35 31 0:32 /docker/ab12 /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0::/user.slice/app.scope\n", {"": "/user.slice/app.scope"}),
        ("4:cpu,cpuacct:/a\n3:memory:/b:c\n", {"cpu": "/a", "cpuacct": "/a", "memory": "/b:c"}),
        ("9:name=systemd:/\n0::/\n", {"name=systemd": "/", "": "/"}),
        ("", {}),
        ("garbage\n", {}),
    ],
)
def test_membership(text: str, groups: dict[str, str]) -> None:
    assert parse_membership(text) == groups


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        (V2_MOUNT, {"": ("/sys/fs/cgroup", "/")}),
        (
            V1_MOUNTS,
            {
                "cpu": ("/sys/fs/cgroup/cpu,cpuacct", "/"),
                "cpuacct": ("/sys/fs/cgroup/cpu,cpuacct", "/"),
                "memory": ("/sys/fs/cgroup/memory", "/"),
            },
        ),
        (V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups"), {"": ("/my groups", "/")}),
        ("", {}),
    ],
)
def test_mounts(text: str, mounts: dict[str, tuple[str, str]]) -> None:
    assert parse_mounts(text) == mounts


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 50000", 1.0), ("200000", 2.0), ("", None)],
)
def test_cpu_max(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


def v2(files: dict[str, str], group: str = "/a/b") -> dict[str, str]:
    base = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2_MOUNT}
    return base | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


def v1(files: dict[str, str], group: str = "/g") -> dict[str, str]:
    membership = f"4:cpu,cpuacct:{group}\n3:memory:{group}\n"
    base = {"proc/self/cgroup": membership, "proc/self/mountinfo": V1_MOUNTS}
    return base | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (v2({"a/b/cpu.max": "max 100000", "a/cpu.max": "max 100000"}), None),
        (v2({"a/b/cpu.max": "400000 100000", "a/cpu.max": "250000 100000"}), 2.5),
        (v2({"a/b/cpu.max": "100000 100000", "a/cpu.max": "250000 100000"}), 1.0),
        # The group's path is the host's, but only the container's top is mounted.
        (v2({"cpu.max": "300000 100000"}, group="/docker/ab12"), 3.0),
        (v2({"cpu.max": "300000 100000"}, group="/../other"), 3.0),
        (v1({"cpu,cpuacct/g/cpu.cfs_quota_us": "-1", "cpu,cpuacct/g/cpu.cfs_period_us": "100000"}), None),
        (v1({"cpu,cpuacct/g/cpu.cfs_quota_us": "150000", "cpu,cpuacct/g/cpu.cfs_period_us": "100000"}), 1.5),
        (
            v1(
                {
                    "cpu,cpuacct/g/cpu.cfs_quota_us": "-1",
                    "cpu,cpuacct/g/cpu.cfs_period_us": "100000",
                    "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                    "cpu,cpuacct/cpu.cfs_period_us": "100000",
                }
            ),
            0.5,
        ),
        ({}, None),
    ],
)
def test_the_tightest_cpu_quota_counts(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("files", "room"),
    [
        (v2({"a/b/memory.max": "max", "a/b/memory.current": "5"}), None),
        (v2({"a/b/memory.max": "1000", "a/b/memory.current": "400"}), (1000, 600)),
        # Cached pages can be dropped; the parent leaves less.
        (
            v2(
                {
                    "a/b/memory.max": "1000",
                    "a/b/memory.current": "900",
                    "a/b/memory.stat": "anon 100\ninactive_file 800\n",
                    "a/memory.max": "2000",
                    "a/memory.current": "1500",
                }
            ),
            (2000, 500),
        ),
        (v2({"a/b/memory.max": "1000", "a/b/memory.current": "1200"}), (1000, 0)),
        (v1({"memory/g/memory.limit_in_bytes": "9223372036854771712"}), None),
        (
            v1(
                {
                    "memory/g/memory.limit_in_bytes": "4096",
                    "memory/g/memory.usage_in_bytes": "2048",
                    "memory/g/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n",
                }
            ),
            (4096, 3048),
        ),
        (
            {
                "proc/self/cgroup": "3:memory:/docker/ab12/inner\n",
                "proc/self/mountinfo": V1_IN_DOCKER,
                "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": "100",
                "sys/fs/cgroup/memory/inner/memory.usage_in_bytes": "40",
            },
            (100, 60),
        ),
        ({}, None),
    ],
)
def test_memory_room(tmp_path: Path, files: dict[str, str], room: tuple[int, int] | None) -> None:
    assert memory_room(tree(tmp_path, files)) == room
