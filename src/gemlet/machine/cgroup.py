"""Limits that control groups, version 1 and 2, set on this process. Linux only; elsewhere there are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# A version 1 group without a limit reports about 2**63 rounded down to a page; nothing real comes near this.
_UNLIMITED = 1 << 60


def parse_membership(text: str) -> dict[str, str]:
    """/proc/self/cgroup -> path of this process's group by controller; "" is version 2."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                groups[controller] = parts[2]
    return groups


def parse_mounts(text: str) -> dict[str, tuple[str, str]]:
    """/proc/self/mountinfo -> (mount point, group mounted there) by controller; "" is version 2."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        fields, _, after = line.partition(" - ")
        before, kind = fields.split(), after.split()
        if len(before) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        place = (_unescape(before[4]), _unescape(before[3]))
        for controller in [""] if kind[0] == "cgroup2" else kind[2].split(","):
            if controller not in ("rw", "ro"):
                mounts.setdefault(controller, place)
    return mounts


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse_cpu_max(text: str) -> float | None:
    """Version 2 cpu.max, "quota period" or "max period" -> CPUs, or None without a limit."""
    fields = text.split()
    if not fields or fields[0] == "max":
        return None
    period = int(fields[1]) if len(fields) > 1 else 100_000
    return int(fields[0]) / period


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time this process may use: the tightest limit of its group and all groups above it."""
    limits: list[float] = []
    for folder in _groups(root, "cpu"):
        text = _read(folder / "cpu.max")
        if text is not None:
            limits += [limit for limit in [parse_cpu_max(text)] if limit is not None]
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            limits.append(quota / period)
    return min(limits, default=None)


def throttling(root: Path = Path("/")) -> tuple[int, float]:
    """How often, and for how many seconds in all, a CPU quota has stopped this process's groups so far."""
    found = [(0, 0.0)]
    for folder in _groups(root, "cpu"):
        stat = folder / "cpu.stat"
        seconds = _stat(stat, "throttled_usec") / 1e6 + _stat(stat, "throttled_time") / 1e9  # version 2, 1
        found.append((_stat(stat, "nr_throttled"), seconds))
    return max(found, key=lambda pair: pair[1])


def memory_room(root: Path = Path("/")) -> tuple[int, int] | None:
    """(limit, room left) in bytes of the group that leaves the least room; None without a limit.

    Cached file pages do not count as used: the kernel drops them when memory is asked for.
    """
    rooms: list[tuple[int, int]] = []
    for folder in _groups(root, "memory"):
        for limit_name, usage_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and limit < _UNLIMITED:
                used = (usage or 0) - _stat(folder / "memory.stat", cache_name)
                rooms.append((limit, max(0, limit - max(0, used))))
    return min(rooms, key=lambda pair: pair[1], default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's groups, from its own up to the mounted top, in both versions."""
    membership = parse_membership(_read(root / "proc/self/cgroup") or "")
    mounts = parse_mounts(_read(root / "proc/self/mountinfo") or "")
    for key in ("", controller):
        if key not in membership or key not in mounts:
            continue
        point, mounted = mounts[key]
        top = root / point.lstrip("/")
        # In a container the group's path may be written as the host sees it; the mount shows only its part.
        path = membership[key]
        inside = path[len(mounted) :] if mounted != "/" and path.startswith(mounted) else path
        folder = top / inside.strip("/")
        if ".." in Path(inside).parts or not folder.is_dir():
            folder = top
        while True:
            yield folder
            if folder == top:
                break
            folder = folder.parent


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    """The integer a control file holds; None for a missing file or for "max"."""
    try:
        return int((_read(path) or "").strip())
    except ValueError:
        return None


def _stat(path: Path, name: str) -> int:
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
