"""What this machine offers a process: cores, memory, instruction sets. A leaf.

Every reader takes the folder under which it looks for /proc and /sys: a folder of files can be any machine.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from gemlet.machine.cores import Cores, cores
from gemlet.machine.memory import Memory, memory
from gemlet.machine.processor import Processor, processor
from gemlet.machine.threads import ThreadChoice, threads

__all__ = [
    "Cores",
    "Memory",
    "Processor",
    "ThreadChoice",
    "cores",
    "describe",
    "memory",
    "processor",
    "threads",
]


def describe(root: Path = Path("/")) -> dict[str, Any]:
    """This machine in plain JSON-ready values, as benchmark results keep it. Memory is in bytes."""
    cpu, available, ram, choice = processor(root), cores(root), memory(root), threads(root)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu.model,
        "instruction_set": cpu.instruction_set,
        "logical_cpus": available.logical,
        "physical_cores": available.physical,
        "cpu_quota": available.quota,
        "threads": choice.count,
        "memory_total": ram.total,
        "memory_available": ram.available,
    }
