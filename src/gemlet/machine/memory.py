"""How much memory this process can have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gemlet.machine.cgroup import memory_room


@dataclass(frozen=True)
class Memory:
    """Bytes. `total` is the machine's or the control group's, whichever is smaller; None where unknown."""

    total: int | None
    available: int | None


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo -> bytes by name."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split()
        if fields and fields[0].isdigit():
            values[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    return values


def memory(root: Path = Path("/")) -> Memory:
    """What the machine has and what can be taken now without swapping, within the control group's limit."""
    try:
        info = parse_meminfo((root / "proc/meminfo").read_text())
        total, available = info.get("MemTotal"), info.get("MemAvailable", info.get("MemFree"))
    except OSError:
        total, available = _physical(), None
    group = memory_room(root)
    if group is None:
        return Memory(total, available)
    limit, room = group
    return Memory(
        total=limit if total is None else min(total, limit),
        available=room if available is None else min(available, room),
    )


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def resident_bytes(root: Path = Path("/")) -> int:
    """Bytes of this process that are in memory, mapped files included; 0 where the system does not tell."""
    try:
        info = parse_meminfo((root / "proc/self/status").read_text())
    except OSError:
        return 0
    return info.get("VmRSS", 0)
