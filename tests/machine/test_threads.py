"""The choice of threads on made-up machines: files as their kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.machine.cores import core_speeds, cores
from gemlet.machine.threads import threads

CPU = "sys/devices/system/cpu"


def siblings(*groups: str) -> dict[str, str]:
    """thread_siblings_list of every CPU named in groups such as "0-1" or "0,4"."""
    files = {}
    for group in groups:
        first, _, last = group.partition("-")
        members = range(int(first), int(last) + 1) if last else map(int, group.split(","))
        files |= {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": group + "\n" for cpu in members}
    return files


def each(name: str, values: list[int | None]) -> dict[str, str]:
    return {f"{CPU}/cpu{i}/{name}": f"{value}\n" for i, value in enumerate(values) if value is not None}


def quota(text: str) -> dict[str, str]:
    return {
        "proc/self/cgroup": "0::/docker/a1b2\n",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/cpu.max": text,
    }


PAIRS = siblings("0-1", "2-3", "4-5", "6-7")
# Six performance cores with two hardware threads, eight efficient ones with one.
HYBRID = siblings(*(f"{i}-{i + 1}" for i in range(0, 12, 2)), *map(str, range(12, 20)))
ATOMS = {"sys/devices/cpu_core/cpus": "0-11\n", "sys/devices/cpu_atom/cpus": "12-19\n"}
TYPES = {f"{CPU}/types/intel_core_0/cpulist": "0-11\n", f"{CPU}/types/intel_atom_1/cpulist": "12-19\n"}
PHONE = each("cpu_capacity", [250, 250, 250, 250, 780, 780, 780, 1024])
BOARD = each("cpu_capacity", [1024, 1024, 1024, 1024])
COMPACT = each("cpufreq/cpuinfo_max_freq", [5100000] * 4 + [3300000] * 4)
FAVOURED = each("cpufreq/cpuinfo_max_freq", [5900000, 5900000, 5600000, 5600000])

PARTLY_KNOWN = each("cpufreq/cpuinfo_max_freq", [4000000, None, 1500000, None])
GARBAGE = {f"{CPU}/cpu0/topology/thread_siblings_list": "?", f"{CPU}/cpu0/cpu_capacity": "x"}


@pytest.mark.parametrize(
    ("files", "cpus", "count", "reason"),
    [
        (siblings("0", "1", "2", "3"), range(4), 4, "4 physical cores"),
        (PAIRS, range(8), 4, "4 physical cores (8 hardware threads)"),
        (siblings("0,4", "1,5", "2,6", "3,7"), range(8), 4, "4 physical cores (8 hardware threads)"),
        # A cpuset that leaves both threads of one core and one of another.
        (PAIRS, [0, 1, 4], 2, "2 physical cores (3 hardware threads)"),
        (siblings("0", "1") | quota("150000 100000"), range(2), 1, "a CPU quota of 1.5 on 2 physical cores"),
        (PAIRS | quota("max 100000"), range(8), 4, "4 physical cores (8 hardware threads)"),
        (HYBRID | ATOMS, range(20), 6, "6 fast of 14 physical cores (20 hardware threads)"),
        (HYBRID | TYPES, range(20), 6, "6 fast of 14 physical cores (20 hardware threads)"),
        # Only the efficient cores are left to this process: they are what there is.
        (HYBRID | ATOMS, range(12, 20), 8, "8 physical cores"),
        (PHONE | quota("200000 100000"), range(8), 2, "a CPU quota of 2 on 4 fast of 8 physical cores"),
        (PHONE, range(8), 4, "4 fast of 8 physical cores"),
        (PHONE, range(4), 4, "4 physical cores"),
        (BOARD, range(4), 4, "4 physical cores"),
        # Compact cores of the same kind with a lower clock, and favoured cores with a higher one, all count.
        (COMPACT, range(8), 8, "8 physical cores"),
        (FAVOURED, range(4), 4, "4 physical cores"),
        (PARTLY_KNOWN, range(4), 3, "3 fast of 4 physical cores"),
        ({}, range(3), 3, "3 physical cores"),
        (GARBAGE, range(2), 2, "2 physical cores"),
    ],
)  # fmt: skip
def test_made_up_machines(
    tmp_path: Path, files: dict[str, str], cpus: range | list[int], count: int, reason: str
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    choice = threads(tmp_path, cpus)
    assert (choice.count, choice.reason) == (count, reason)


def test_nothing_is_known_of_the_speed_of_cores_where_the_system_is_silent(tmp_path: Path) -> None:
    assert core_speeds(tmp_path, range(4)) == {}
    assert cores(tmp_path, range(4)).slow == 0
