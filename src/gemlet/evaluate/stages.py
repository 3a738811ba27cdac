"""What is measured of an engine's speed, and the samples that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gemlet.model.work import Work
from gemlet.ops.limits import Limits

OURS = "gemlet"
"""The engine whose share of the limits is told."""

Kind = Literal["prefill", "decode", "streams", "first token", "answer", "start"]


@dataclass(frozen=True)
class Stage:
    """One thing that is measured. `tokens`: of the prompt, or those before the first one decoded."""

    name: str
    kind: Kind
    tokens: int
    streams: int = 1

    @property
    def rate(self) -> bool:
        """Whether it is told in tokens a second; otherwise in seconds."""
        return self.kind not in ("first token", "start")

    def value(self, seconds: float) -> float:
        """What a measurement of so many seconds is told as."""
        if not self.rate:
            return seconds
        return (self.tokens if self.kind == "prefill" else self.streams) / seconds


STAGES = (
    Stage("prefill 512", "prefill", 512),
    Stage("decode", "decode", 1),
    Stage("prefill 2048", "prefill", 2048),
    Stage("decode after 2048", "decode", 2048),
    Stage("decode, 4 streams", "streams", 0, 4),
    Stage("decode, 8 streams", "streams", 0, 8),
    Stage("answer after 512", "answer", 512),
    Stage("first token after 16", "first token", 16),
    Stage("start to first token", "start", 1),
)
"""A stage that decodes after a prompt comes right behind the stage that reads it."""

WARM_UP = 64
"""Tokens read before anything is measured: they bring every weight into memory."""

QUICK = ("prefill 512", "decode", "decode, 4 streams", "first token after 16")


@dataclass(frozen=True)
class Plan:
    """What to measure. `tokens`: decoded in each measurement of decoding. `longest`: the model's context."""

    model: Path
    threads: int
    why_threads: str
    rounds: int
    tokens: int
    stages: tuple[Stage, ...]
    longest: int
    against: str | None = None

    @property
    def engines(self) -> tuple[str, ...]:
        return (OURS,) if self.against is None else (OURS, self.against)

    @property
    def context(self) -> int:
        """Positions that an engine must have room for."""
        return max(stage.tokens for stage in self.stages) + 2 * self.tokens + 64


@dataclass
class Samples:
    """What was measured, round by round: seconds by stage and engine, and the limits before each stage."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    limits: dict[str, list[Limits]] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    memory: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    kv_price: dict[int, int] = field(default_factory=dict)
