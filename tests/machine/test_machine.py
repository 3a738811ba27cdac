"""Cores, processor, memory and the choice of threads, from files as real systems write them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from gemlet import machine
from gemlet.machine.cores import Cores, count_physical, parse_cpu_list
from gemlet.machine.memory import Memory, memory, parse_meminfo
from gemlet.machine.processor import parse_cpuinfo, processor
from gemlet.machine.threads import choose

AVX2 = "fpu sse4_2 fma f16c avx2"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0\n", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,4,6-7\n", {0, 1, 4, 6, 7}), ("", set()), ("\n", set())],
)
def test_cpu_list(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("cpus", "siblings", "cores"),
    [
        ({0, 1}, [{0}, {1}], 2),
        ({0, 1, 2, 3}, [{0, 2}, {1, 3}, {0, 2}, {1, 3}], 2),
        ({0, 2}, [{0, 2}, {0, 2}], 1),
        ({0, 1}, [{0, 2}, {1, 3}], 2),
        ({0, 1, 2}, [{0, 1}], 2),
        ({5}, [], 1),
    ],
)
def test_physical_cores(cpus: set[int], siblings: list[set[int]], cores: int) -> None:
    assert count_physical(cpus, [frozenset(group) for group in siblings]) == cores


@pytest.mark.parametrize(
    ("text", "model", "instruction_set"),
    [
        (f"processor\t: 0\nmodel name\t: Fast X1\nflags\t\t: {AVX512}\n", "Fast X1", "avx512"),
        (f"model name : Old X\nflags : {AVX512.replace('avx512_vnni', '')}\n", "Old X", "avx2"),
        (f"model name : Older X\nflags : {AVX2.replace('f16c', '')}\n", "Older X", "portable"),
        (
            "processor : 0\nFeatures : fp asimd crc32\nCPU implementer : 0x41\nCPU part : 0xd0c\n",
            "CPU implementer 0x41 CPU part 0xd0c",
            "portable",
        ),
        ("Features : fp asimd asimddp\nCPU part : 0xd0c\n", "CPU part 0xd0c", "neon_dotprod"),
        ("Features : fp asimd asimddp i8mm\nCPU part : 0xd40\n", "CPU part 0xd40", "neon_i8mm"),
        ("Features : fp asimd i8mm\nCPU part : 0xd40\n", "CPU part 0xd40", "portable"),
        (f"model name: First\nflags: fpu\n\nmodel name: Second\nflags: {AVX512}\n", "First", "portable"),
    ],
)
def test_cpuinfo(text: str, model: str, instruction_set: str) -> None:
    found = parse_cpuinfo(text)
    assert found is not None
    assert (found.model, found.instruction_set) == (model, instruction_set)


@pytest.mark.parametrize(
    ("system", "architecture", "instruction_set"),
    [("Darwin", "arm64", "neon_dotprod"), ("Windows", "ARM64", "portable"), ("Darwin", "x86_64", "portable")],
)
def test_a_processor_without_cpuinfo(
    system: str, architecture: str, instruction_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    assert processor(tmp_path).instruction_set == instruction_set


def test_cpuinfo_without_features_is_not_believed() -> None:
    assert parse_cpuinfo("cpu family: 6\n") is None


def test_meminfo() -> None:
    assert parse_meminfo("MemTotal:  100 kB\nHugePages_Total:   3\nBroken\n") == {
        "MemTotal": 102400,
        "HugePages_Total": 3,
    }


def test_memory_is_within_the_group_limit(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 800 kB\n")
    assert memory(tmp_path) == Memory(1024000, 819200)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/memory.max").write_text("512000\n")
    (tmp_path / "cg/memory.current").write_text("12000\n")
    assert memory(tmp_path) == Memory(512000, 500000)


@pytest.mark.parametrize(
    ("available", "count", "reason"),
    [
        (Cores(2, 2, None), 2, "2 physical cores"),
        (Cores(16, 8, None), 8, "8 physical cores (16 hardware threads)"),
        (Cores(1, 1, None), 1, "1 physical core"),
        (Cores(8, 8, 2.5), 2, "a CPU quota of 2.5 on 8 physical cores"),
        (Cores(8, 4, 0.5), 1, "a CPU quota of 0.5 on 4 physical cores (8 hardware threads)"),
        (Cores(4, 4, 16.0), 4, "4 physical cores"),
        (Cores(20, 14, None, slow=8), 6, "6 fast of 14 physical cores (20 hardware threads)"),
        (Cores(8, 8, 2.0, slow=4), 2, "a CPU quota of 2 on 4 fast of 8 physical cores"),
        (Cores(4, 4, None, slow=4), 1, "1 fast of 4 physical cores"),
    ],
)
def test_choice_of_threads(available: Cores, count: int, reason: str) -> None:
    choice = choose(available)
    assert (choice.count, choice.reason) == (count, reason)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity cannot be set here")
def test_affinity_is_obeyed() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cores().logical == 1
        assert machine.threads().count == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_machine_without_proc_or_sys_still_answers(tmp_path: Path) -> None:
    found = machine.describe(tmp_path)
    json.dumps(found)
    assert found["threads"] >= 1
    assert found["cpu_quota"] is None
    assert found["processor"]


def test_this_machine() -> None:
    found = machine.describe()
    assert 1 <= found["threads"] <= found["physical_cores"] <= found["logical_cpus"] <= (os.cpu_count() or 1)
    assert 0 < found["memory_available"] <= found["memory_total"]
