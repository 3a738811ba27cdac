"""What kept the processors from us during a measurement: quotas, other processes, heat. Linux only."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemlet.machine.cgroup import throttling

NOTICED = 0.03
"""Share of the processors' time that is worth a warning: about what the median of a few rounds hides."""


@dataclass(frozen=True)
class Activity:
    """Counters of a moment. Seconds are of processor time, summed over processors, `elapsed` of the clock."""

    elapsed: float
    own: float
    busy: float | None
    stolen: float
    processors: int
    throttled: int
    throttled_seconds: float
    hot: int


def parse_stat(text: str, ticks_per_s: int) -> tuple[float, float] | None:
    """/proc/stat -> processor seconds spent for anything here, and for other machines on the same host."""
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] == "cpu" and len(fields) >= 9:
            # Guests' time, which follows, is in user time already.
            user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
            return (user + nice + system + interrupts + soft) / ticks_per_s, stolen / ticks_per_s
    return None


def activity(root: Path = Path("/")) -> Activity:
    """The counters now. Processes that this one has started are its own once they have been waited for."""
    times, found = os.times(), None
    with suppress(AttributeError, OSError, ValueError):
        found = parse_stat((root / "proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    throttled, seconds = throttling(root)
    return Activity(
        elapsed=time.monotonic(),
        own=times.user + times.system + times.children_user + times.children_system,
        busy=None if found is None else found[0],
        stolen=0.0 if found is None else found[1],
        processors=os.cpu_count() or 1,
        throttled=throttled,
        throttled_seconds=seconds,
        hot=_hot(root),
    )


def disturbances(before: Activity, after: Activity) -> tuple[str, ...]:
    """What disturbed a measurement between two moments, a sentence each; empty when nothing did."""
    found = [told] if (told := throttled(before, after)) else []
    capacity = max(1e-9, (after.elapsed - before.elapsed) * after.processors)
    if before.busy is not None and after.busy is not None:
        others = (after.busy - before.busy - (after.own - before.own)) / capacity
        if others > NOTICED:
            found.append(f"other processes took {others:.0%} of the processors' time")
    if (stolen := (after.stolen - before.stolen) / capacity) > NOTICED:
        found.append(f"the host gave {stolen:.0%} of the processors' time to other machines")
    if (hot := after.hot - before.hot) > 0:
        found.append(f"a core was slowed down {hot} times because of heat")
    return tuple(found)


def throttled(before: Activity, after: Activity) -> str | None:
    """Whether a CPU quota stopped this process between two moments, and for how long."""
    count = after.throttled - before.throttled
    if count <= 0:
        return None
    seconds = after.throttled_seconds - before.throttled_seconds
    return f"a CPU quota stopped this process {count} times, for {seconds:.1f} s in all"


def _hot(root: Path) -> int:
    count = 0
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            count += int(path.read_text())
        except (OSError, ValueError):
            continue
    return count
