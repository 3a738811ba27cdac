"""Measures what `gemlet plan` forecasts: a prompt, steps behind it in several streams, memory of the process.

A long prompt is not read again every round: of its steps a few are timed, spread evenly over its length.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemlet.evaluate.engine_process import EngineProcess
from gemlet.evaluate.engines import random_ids
from gemlet.evaluate.stages import OURS
from gemlet.model.decoder import MAX_ROWS
from gemlet.ops.limits import Limits, measure_limits

SAMPLED = 4
"""Steps of a prompt that are timed."""

STEPS = 6
"""Of streams, in each measurement; the first also makes room and is not counted."""


@dataclass(frozen=True)
class Load:
    """What is measured: a model as it is loaded, and how it is used. `room`: tokens behind the prompt."""

    model: Path
    weights: str
    threads: int
    vocab_size: int
    prompt: int
    streams: Sequence[int]

    @property
    def context(self) -> int:
        return self.prompt + STEPS

    @property
    def starts(self) -> list[int]:
        """Where the timed steps of the prompt begin."""
        steps = -(-self.prompt // MAX_ROWS)
        if steps <= SAMPLED:
            return [n * MAX_ROWS for n in range(steps)]
        full = self.prompt // MAX_ROWS
        return [int((n + 0.5) * full / SAMPLED) * MAX_ROWS for n in range(SAMPLED)]


@dataclass(frozen=True)
class Measured:
    """One thing in one round: seconds, beside the machine's limits just before. `what`: prompt, or a
    number of streams."""

    what: str
    seconds: float
    limits: Limits


Progress = Callable[[str], None]


def measure_memory(load: Load, streams: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
    """Bytes by number of streams (None: the most), each holding the prompt, in a process started for it."""
    with process(load) as engine:
        engine.call("open_tokenizer")
        fill(engine, load, 0, [])
        counts = [max(load.streams)] if streams is None else sorted(streams)
        return {count: engine.call("hold", load.prompt, count, load.vocab_size // 2) for count in counts}


def measure_rounds(
    load: Load, rounds: int, progress: Progress = lambda text: None
) -> Iterator[list[Measured]]:
    """Round by round, each thing once. The process is started when the first round is asked for."""
    progress("reading the prompt")
    with process(load) as engine:
        fill(engine, load, 1, load.starts)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            yield measure_round(engine, load, number)


def measure_round(engine: EngineProcess, load: Load, number: int) -> list[Measured]:
    """One round on an engine that has read the prompt."""
    limits = measure_limits(load.threads, seconds=0.15)
    found = [Measured("prompt", _prompt_seconds(engine, load, number), limits)]
    ids = random_ids(1, number, load.vocab_size)
    for count in load.streams:
        limits = measure_limits(load.threads, seconds=0.15)
        seconds = engine.call("time_steps", load.prompt, count, ids, STEPS)[1:]
        found.append(Measured(str(count), statistics.median(seconds), limits))
    return found


def process(load: Load) -> EngineProcess:
    """An engine of its own with the model loaded."""
    return EngineProcess(OURS, load.model, load.threads, load.context, load.weights)


def fill(engine: EngineProcess, load: Load, seed: int, starts: Sequence[int]) -> None:
    """Read the prompt, keeping what it was like where steps are timed."""
    ids = random_ids(load.prompt, seed, load.vocab_size)
    engine.call("fill", ids, [*starts, load.prompt])


def _prompt_seconds(engine: EngineProcess, load: Load, number: int) -> float:
    total = rows_timed = 0.0
    for start in load.starts:
        rows = min(MAX_ROWS, load.prompt - start)
        last = start + rows == load.prompt
        ids = random_ids(rows, number, load.vocab_size)
        total += engine.call("time_steps", start, 1, ids, 1, "last" if last else "none")[0]
        rows_timed += rows
    return total * load.prompt / rows_timed
