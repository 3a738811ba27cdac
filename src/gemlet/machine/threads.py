"""How many threads to compute with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemlet.machine.cores import Cores, cores


@dataclass(frozen=True)
class ThreadChoice:
    """A number of threads and why, in one phrase."""

    count: int
    reason: str


def choose(available: Cores) -> ThreadChoice:
    """One thread for each physical core that is not of a slow kind, within the CPU quota.

    A core's hardware threads share its multipliers and its way to memory, which is all that decoding uses.
    A quota is rounded down: a thread it cannot carry is stopped in mid-step and holds up the rest.
    """
    count = max(1, available.physical - available.slow)
    reason = f"{available.physical} physical core{'s' if available.physical != 1 else ''}"
    if count != available.physical:
        reason = f"{count} fast of {reason}"
    if available.logical != available.physical:
        reason += f" ({available.logical} hardware threads)"
    if available.quota is not None and available.quota < count:
        count = max(1, int(available.quota))
        reason = f"a CPU quota of {available.quota:g} on {reason}"
    return ThreadChoice(count, reason)


def threads(root: Path = Path("/"), cpus: Iterable[int] | None = None) -> ThreadChoice:
    """The choice for this process as it is limited now. `cpus`: None for its own affinity."""
    return choose(cores(root, cpus))
