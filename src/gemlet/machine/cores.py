"""Which processor cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemlet.machine.cgroup import cpu_quota

_CPU = "sys/devices/system/cpu"

SLOW = 0.5
"""Speed, beside the fastest core's, below which a core is not computed on.

Every step waits at its barriers for the last piece of work. The slowest core's last piece keeps all others
waiting for 1 / speed times as long as one of theirs would.
"""


@dataclass(frozen=True)
class Cores:
    """Cores this process may use.

    `logical` counts hardware threads, `physical` the cores they belong to, `slow` those of them that are of
    a much slower kind, all within the process's affinity, which the kernel has already cut to its cpuset.
    `quota` is the CPU time it may use, in CPUs; None without a limit.
    """

    logical: int
    physical: int
    quota: float | None
    slow: int = 0


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


def cores(root: Path = Path("/"), cpus: Iterable[int] | None = None) -> Cores:
    """What this process may use now. `cpus`: None for the process's own affinity, whatever `root` is."""
    own = _affinity() if cpus is None else frozenset(cpus)
    siblings = []
    for cpu in own:
        path = root / f"{_CPU}/cpu{cpu}/topology/thread_siblings_list"
        try:
            siblings.append(parse_cpu_list(path.read_text()))
        except (OSError, ValueError):
            continue
    speeds = core_speeds(root, own)
    fastest = max(speeds.values(), default=1.0)
    slow = {cpu for cpu in own if speeds.get(cpu, fastest) < SLOW * fastest}
    return Cores(
        logical=len(own),
        physical=count_physical(own, siblings),
        quota=cpu_quota(root),
        slow=count_physical(slow, siblings),
    )


def core_speeds(root: Path, cpus: Iterable[int]) -> dict[int, float]:
    """How fast each CPU is beside others of this machine, as far as the system tells; in no unit.

    Arm kernels give a capacity, measured, and x86 kernels the kind of each core of a hybrid processor, of
    which the small kind multiplies vectors at well under half the speed. Else the highest clock counts.
    """
    capacities = {cpu: _number(root / f"{_CPU}/cpu{cpu}/cpu_capacity") for cpu in cpus}
    if all(capacities.values()):
        return {cpu: float(capacity or 0) for cpu, capacity in capacities.items()}
    if small := _small(root):
        return {cpu: 0.0 if cpu in small else 1.0 for cpu in capacities}
    clocks = {cpu: _number(root / f"{_CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq") for cpu in capacities}
    return {cpu: float(clock) for cpu, clock in clocks.items() if clock}


def _small(root: Path) -> frozenset[int]:
    """CPUs of the small kind of a hybrid x86 processor."""
    paths = [root / "sys/devices/cpu_atom/cpus", *(root / _CPU / "types").glob("intel_atom*/cpulist")]
    found: frozenset[int] = frozenset()
    for path in paths:
        try:
            found |= parse_cpu_list(path.read_text())
        except (OSError, ValueError):
            continue
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS and Windows: no cheap answer finer than this
