"""Which processor cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemlet.machine.cgroup import cpu_quota


@dataclass(frozen=True)
class Cores:
    """Cores this process may use.

    `logical` counts hardware threads, `physical` the cores they belong to, both within the process's
    affinity, which the kernel has already cut to its cpuset. `quota` is the CPU time it may use, in CPUs;
    None without a limit.
    """

    logical: int
    physical: int
    quota: float | None


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list format, such as "0-3,8,10-11" -> CPU numbers."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def count_physical(cpus: Iterable[int], siblings: Iterable[frozenset[int]]) -> int:
    """Cores that `cpus` lie on; `siblings` are sets of CPUs that share one. A CPU in no set has its own."""
    left, count = set(cpus), 0
    for group in set(siblings):
        if left & group:
            left -= group
            count += 1
    return count + len(left)


def cores(root: Path = Path("/")) -> Cores:
    """What this process may use now. Affinity is the process's own, whatever `root` is."""
    cpus = _affinity()
    siblings = []
    for cpu in cpus:
        path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            siblings.append(parse_cpu_list(path.read_text()))
        except (OSError, ValueError):
            continue
    return Cores(logical=len(cpus), physical=count_physical(cpus, siblings), quota=cpu_quota(root))


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS and Windows: no cheap answer finer than this
