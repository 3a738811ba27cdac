"""What rounding the inputs of matrix products costs the 270M model, each way simulated alone in NumPy.

Usage: activations.py [--tokens 512]
The reference executor computes in float32; only the inputs of its products are rounded. Mean KL divergence
to the same executor without rounding, in nats, on the three texts of the fidelity test.
Writes benchmarks/results/activations-*.json. Needs the `demo` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gemlet.model.decoder import EXECUTORS, Decoder
from gemlet.ops import reference
from gemlet.ops.packed import Packed
from gemlet.store.settings import cache_dir
from results_file import write_result
from tests.parity.oracle import run
from tests.parity.real import TEXTS, Real

Float32 = NDArray[np.float32]
Rounding = Callable[[Float32], Float32]


def rounded(blocks: Float32, reach: Float32, top: float) -> Float32:
    """Blocks as whole numbers times a scale at which `reach` is `top`."""
    scale = np.where(reach > 0, reach / np.float32(top), np.float32(1)).astype(np.float32)
    return np.round(blocks / scale) * scale


def in_blocks(size: int, top: float = 127.0) -> Rounding:
    def of(x: Float32) -> Float32:
        blocks = x.reshape(len(x), -1, size)
        return rounded(blocks, np.abs(blocks).max(-1, keepdims=True), top).reshape(x.shape)

    return of


def with_spare(x: Float32) -> Float32:
    """Blocks of 32 of which the group of four with the peak reaches twice as far as the others."""
    blocks = x.reshape(len(x), -1, 32)
    peaks = np.sort(np.abs(blocks).reshape(*blocks.shape[:2], 8, 4).max(-1), axis=-1)[..., None]
    return rounded(blocks, np.maximum(peaks[..., -2, :], peaks[..., -1, :] / 2), 127.0).reshape(x.shape)


WAYS: dict[str, tuple[Rounding, Rounding | None]] = {
    "8 bits in blocks of 32": (in_blocks(32), in_blocks(32)),
    "8 bits in blocks of 16": (in_blocks(16), in_blocks(16)),
    "9 bits in blocks of 32": (in_blocks(32, 254.0), in_blocks(32, 254.0)),
    "8 bits in blocks of 32, spare group": (with_spare, with_spare),
    "8 bits in blocks of 32, head 16 bits": (in_blocks(32), in_blocks(32, 32512.0)),
    "8 bits in blocks of 32, spare group, head 16 bits": (with_spare, in_blocks(32, 32512.0)),
}
"""For each: what rounds the inputs of the blocks' products, and what rounds the head's."""


def simulated(real: Real, blocks: Rounding | None, head: Rounding | None) -> Decoder:
    """A reference decoder whose products see rounded inputs."""
    table = real.weights.packed["token_embd"]

    class Rounded(reference.ReferenceOperations):
        def linear(self, x: Float32, weight: Packed, precise: bool = False) -> Float32:
            rounding = head if weight is table else blocks
            return super().linear(rounding(x) if rounding and len(x) else x, weight, precise)

    class Executor(reference.ReferenceExecutor):
        operations = Rounded

    EXECUTORS["simulated"] = Executor
    return Decoder(real.config, real.weights, executor="simulated")


def mean_divergence(exact: list[Float32], decoder: Decoder, ids: list[int]) -> float:
    """Mean KL divergence of a decoder's distributions from the exact ones."""
    total = 0.0
    for expected, (_, logits) in zip(exact, run(decoder, ids), strict=True):
        p, q = log_softmax(expected), log_softmax(logits)
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(ids)


def log_softmax(logits: Float32) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    real = Real(cache_dir())
    rows: list[dict[str, Any]] = [{"inputs": name} for name in WAYS]
    for text in TEXTS:
        ids = real.ids(text, args.tokens)
        exact = [logits for _, logits in run(simulated(real, None, None), ids)]
        for row, (blocks, head) in zip(rows, WAYS.values(), strict=True):
            row[f"mean KL, {text}"] = mean_divergence(exact, simulated(real, blocks, head), ids)
            print(row, flush=True)
    print(write_result("activations", rows, models=[real.path], settings={"tokens": args.tokens}))


if __name__ == "__main__":
    main()
