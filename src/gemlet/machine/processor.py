"""What the processor is and which of our instruction sets it can run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

InstructionSet = Literal["avx512", "avx2", "neon_i8mm", "neon_dotprod", "portable"]

# What each kernel file is compiled for, by the kernel's names of the features.
_NEEDED: tuple[tuple[InstructionSet, frozenset[str]], ...] = (
    ("avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "f16c"})),
    ("avx2", frozenset({"avx2", "fma", "f16c"})),
    ("neon_i8mm", frozenset({"asimd", "asimddp", "i8mm"})),
    ("neon_dotprod", frozenset({"asimd", "asimddp"})),
)


@dataclass(frozen=True)
class Processor:
    """`model` as the system names it; `flags` are Linux's feature names, empty elsewhere."""

    model: str
    flags: frozenset[str]

    @property
    def instruction_set(self) -> InstructionSet:
        """The widest set of kernels this processor can run; what a model really uses is in its manifest."""
        return next((name for name, needed in _NEEDED if needed <= self.flags), "portable")


def parse_cpuinfo(text: str) -> Processor | None:
    """/proc/cpuinfo -> the first processor; None when it names no features."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features"))
    if flags is None:
        return None
    # Arm kernels give numbers instead of a name.
    model = fields.get("model name") or " ".join(
        f"{key} {fields[key]}" for key in ("CPU implementer", "CPU part") if key in fields
    )
    return Processor(model or "unknown", frozenset(flags.split()))


def processor(root: Path = Path("/")) -> Processor:
    """This machine's processor. Without /proc/cpuinfo no flags are known but those that all of a kind have:
    64-bit Arm has NEON, a Mac with such a processor the dot product too."""
    try:
        found = parse_cpuinfo((root / "proc/cpuinfo").read_text())
    except OSError:
        found = None
    if found is not None:
        return found
    flags: set[str] = set()
    if platform.machine().lower() in ("arm64", "aarch64"):
        flags = {"asimd", "asimddp"} if platform.system() == "Darwin" else {"asimd"}
    return Processor(platform.processor() or platform.machine() or "unknown", frozenset(flags))
