"""What an adapter costs: prefill, decode and streams with adapters and without, alternating in one run.

Usage: adapters.py MODEL.gguf [--rounds 5] [--threads N] [--rank 16]
Writes benchmarks/results/adapters-*.json: medians over the rounds with the smallest and largest value; the
ratio is taken within each round. The adapters are random, in bf16, and on every matrix of every layer.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.evaluate.engines import Gemlet, random_ids
from gemlet.evaluate.record import spread
from gemlet.formats.quantize import to_bf16
from gemlet.formats.tensors import Tensor
from gemlet.machine import threads as usable_threads
from gemlet.model.config import ModelConfig
from gemlet.ops.batch import Adapter, Batch, State
from gemlet.ops.operations import LowRank
from gemlet.ops.packed import Packed, pack
from results_file import write_result

STREAMS = 4
"""Each has an adapter of its own."""


class Adapted(Gemlet):
    """The engine with adapters: the first `used` of them serve the sequences of a step in turn."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        super().__init__(model, threads, context)
        self._adapters: list[Adapter] = []
        self.used = 0

    def adapt(self, parts: Mapping[str, LowRank]) -> int:
        """Take in an adapter and give its bytes."""
        self._adapters.append(self._decoder.adapter(parts))
        return self._adapters[-1].nbytes

    def batch(self, parts: list[tuple[State, Sequence[int]]], logits: Any) -> Batch:
        used = self._adapters[: self.used]
        adapters = [used[i % len(used)] for i in range(len(parts))] if used else ()
        return Batch.of(parts, logits=logits, adapters=adapters)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads().count)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each decode measurement")
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()

    engine = Adapted(args.model, args.threads, 4096)
    sizes = [engine.adapt(random_parts(engine.config, args.rank, seed)) for seed in range(STREAMS)]
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(-1, args.rounds):  # the first one warms up
        for what, pair in one_round(engine, args.tokens, number).items():
            measured.setdefault(what, []).append(pair)
    engine.close()

    rows = [row(what, pairs[1:]) for what, pairs in measured.items()]
    settings = {
        "model": args.model.name,
        "threads": args.threads,
        "rounds": args.rounds,
        "rank": args.rank,
        "MB of an adapter": sizes[0] / 1e6,
        "engine": engine.details,
    }
    path = write_result("adapters", rows, models=[args.model], settings=settings)
    for line in rows:
        print(*(f"{key}: {v['median']:.3g}" if isinstance(v, dict) else v for key, v in line.items()))
    print(path)


def random_parts(config: ModelConfig, rank: int, seed: int) -> dict[str, LowRank]:
    """An adapter of every matrix of every layer."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Packed:
        values = to_bf16(rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5))
        return pack(Tensor("", "BF16", values.shape, values.view(np.uint8).reshape(-1)))

    shapes = {name: shape for name, shape in config.tensor_shapes().items() if name.startswith("blk.")}
    return {
        name: LowRank(matrix(rank, shape[1]), matrix(shape[0], rank), 0.1)
        for name, shape in shapes.items()
        if len(shape) == 2
    }


def one_round(engine: Adapted, tokens: int, number: int) -> dict[str, tuple[float, float]]:
    """Tokens per second, without and with adapters; which goes first changes from round to round."""
    ids = random_ids(512 + tokens, seed=number + 1)
    pairs: dict[str, tuple[float, float]] = {}

    def measure(what: str, tokens_per_s: Any) -> None:
        speeds = {}
        for adapters in (0, STREAMS) if number % 2 else (STREAMS, 0):
            engine.used = adapters
            speeds[adapters] = tokens_per_s()
        pairs[what] = speeds[0], speeds[STREAMS]

    measure("prefill 512", lambda: 512 / engine.prefill(ids[:512]))
    measure("decode", lambda: 1 / statistics.median(decode(engine, ids)))
    measure(
        f"decode, {STREAMS} streams",
        lambda: STREAMS / statistics.median(engine.streams(STREAMS, ids[512:])[2:]),
    )
    return pairs


def decode(engine: Adapted, ids: Sequence[int]) -> list[float]:
    engine.prefill(ids[:1])
    return engine.decode(ids[512:])


def row(what: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """One line of the table."""
    return {
        "what": what,
        "without, tokens/s": spread([without for without, _ in pairs]),
        "with, tokens/s": spread([adapted for _, adapted in pairs]),
        "ratio": spread([adapted / without for without, adapted in pairs]),
    }


if __name__ == "__main__":
    main()
