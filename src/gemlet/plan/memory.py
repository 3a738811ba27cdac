"""Memory of a process that answers with a model, part by part, before anything is loaded. All in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from gemlet.infer.engine import PREFIX_BYTES
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import MAX_ROWS, forward
from gemlet.model.head import gains_by_sketch, head_of
from gemlet.ops.batch import PAGE, pages_for
from gemlet.ops.record import Recorder, lower
from gemlet.ops.sketch import sketch_bytes
from gemlet.plan.efficiency import Efficiency
from gemlet.plan.subject import Subject

_KV_ELEMENT = 2
_LANES = 16
_CODE_BLOCK = {False: 64, True: 96}  # bytes of 32 values: QuantisedBlock, PreciseBlock (gemlet/types.h)
_TILE = 6


@dataclass(frozen=True)
class Memory:
    """Bytes by part. `prefix_cache`: what prompts of earlier requests may take besides, not in `total`."""

    weights: dict[str, int]
    norms: int
    head_sketch: int
    kv_local: int
    kv_global: int
    step_buffers: int
    logits: int
    tokenizer: int
    runtime: int
    prefix_cache: int

    @property
    def total(self) -> int:
        parts = self.norms + self.head_sketch + self.kv + self.step_buffers + self.logits
        return sum(self.weights.values()) + parts + self.tokenizer + self.runtime

    @property
    def kv(self) -> int:
        return self.kv_local + self.kv_global

    @property
    def most(self) -> int:
        """With a full cache of prompts."""
        return self.total + self.prefix_cache


def forecast_memory(
    subject: Subject, context: int, streams: int, efficiency: Efficiency, *, sketch: bool = True
) -> Memory:
    """What `streams` conversations of `context` tokens need, one of which is just reading its prompt."""
    config, weights = subject.config, subject.weights
    head = head_of(weights)
    local, whole = kv_bytes(config, context, MAX_ROWS)
    more_local, more_whole = kv_bytes(config, context, 1)
    return Memory(
        weights=subject.bytes_by_type,
        norms=4 * sum(prod(vector.shape) for vector in weights.vectors.values()),
        head_sketch=sketch_bytes(head.rows, head.columns) if sketch and gains_by_sketch(weights) else 0,
        kv_local=local + (streams - 1) * more_local,
        kv_global=whole + (streams - 1) * more_whole,
        step_buffers=step_buffers(subject),
        logits=streams * _padded(config.vocab_size) * 4,
        tokenizer=round(efficiency.tokenizer_bytes_per_piece * config.vocab_size),
        runtime=efficiency.runtime_bytes,
        prefix_cache=PREFIX_BYTES,
    )


def kv_bytes(config: ModelConfig, positions: int, rows: int) -> tuple[int, int]:
    """What the local and the global layers hold of a sequence that grows by at most `rows` a step.

    A local layer keeps its window, a page for drafts that are taken back, and the rows of the step, wherever
    in their pages these lie: as native/runtime/kv_state.cc prices it.
    """
    page = 2 * config.num_key_value_heads * _padded(config.head_dim) * PAGE * _KV_ELEMENT
    windows = [config.window(layer) for layer in range(config.num_layers)]
    pages = pages_for(positions)
    widest = max((window for window in windows if window is not None), default=1)
    kept = PAGE + widest - 1 + min(rows, positions)
    held = min(pages, (kept - 2) // PAGE + 2)
    local = sum(window is not None for window in windows)
    return local * held * page, (len(windows) - local) * pages * page


def step_buffers(subject: Subject) -> int:
    """Room for the values of the largest step, as the native executor lays it out."""
    recorder = Recorder()
    forward(recorder, subject.config, subject.weights)
    lowered = lower(recorder)
    floats = sum(_padded(width) * MAX_ROWS * 4 for width in lowered.buffers)
    rotations = sum(_padded(width) * MAX_ROWS * 4 for width, *_ in recorder.rotations)
    rows = -(-MAX_ROWS // _TILE) * _TILE
    codes = sum(rows * (columns // 32) * _CODE_BLOCK[precise] for columns, precise in lowered.quantised)
    return floats + rotations + codes


def _padded(width: int) -> int:
    return -(-width // _LANES) * _LANES


@dataclass(frozen=True)
class Change:
    """A way to need less: what to change, and what is then needed."""

    weights: str | None
    context: int
    streams: int
    memory_bytes: int


def smaller(
    subject: Subject, weights: str, context: int, streams: int, room: int, efficiency: Efficiency
) -> list[Change]:
    """Changes that fit into `room` bytes: each alone first, then a smaller type with others."""

    def needed(kind: str, positions: int, count: int) -> int:
        return forecast_memory(subject.with_weights(kind), positions, count, efficiency).total

    def most(kind: str) -> tuple[int, int]:
        """Streams at this context, and pages of context at these streams, that fit; 0 for none."""
        fewer = _largest(lambda n: needed(kind, context, n) <= room, streams - 1)
        return fewer, _largest(lambda n: needed(kind, n * PAGE, streams) <= room, (context - 1) // PAGE)

    found = []
    kinds = [
        kind
        for kind in ("int8", "int4")
        if needed(kind, context, streams) < needed(weights, context, streams)
    ]
    for kind in kinds:
        if (size := needed(kind, context, streams)) <= room:
            found.append(Change(kind, context, streams, size))
    for kind in (weights, *kinds[-1:]):
        named = None if kind == weights else kind
        if named is not None and found:
            break
        fewer, blocks = most(kind)
        if fewer:
            found.append(Change(named, context, fewer, needed(kind, context, fewer)))
        if blocks:
            found.append(Change(named, blocks * PAGE, streams, needed(kind, blocks * PAGE, streams)))
    return found


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, of a need that grows with it; 0 for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
