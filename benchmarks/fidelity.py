"""How close the 270M model's next-token distributions stay to float32 on the same weights.

Usage: fidelity.py [--model FILE.gguf] [--engine native|reference] [--against llama.cpp] [--tokens 1024]
                   [--threads N]
A model that is given must be a Gemma 3 or a Llama.
The oracle is transformers in float32 on the dequantised weights. Measured at every position of three texts:
mean and 99th percentile of the KL divergence in nats, and how often the likeliest token is the same.
Writes benchmarks/results/fidelity-*.json. Needs the `demo` extra, torch, transformers and gguf.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gemlet.evaluate.engines import LlamaCpp
from gemlet.model.decoder import Decoder
from gemlet.store.settings import cache_dir
from results_file import write_result
from tests.parity.oracle import Float32, Oracle, fidelity, run
from tests.parity.real import TEXTS, Real
from tests.parity.smollm2 import LlamaOracle

Steps = Callable[[Sequence[int]], Iterator[tuple[slice, Float32]]]


class LlamaCppLogits(LlamaCpp):
    """llama.cpp, giving the logits of every position."""

    def __call__(self, ids: Sequence[int], size: int = 256) -> Iterator[tuple[slice, Float32]]:
        c = self._c
        width = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        c.llama_memory_clear(c.llama_get_memory(self._context), True)
        batch = c.llama_batch_init(size, 0, 1)
        for start in range(0, len(ids), size):
            piece = ids[start : start + size]
            batch.n_tokens = len(piece)
            for row, token in enumerate(piece):
                batch.token[row], batch.pos[row], batch.logits[row] = token, start + row, 1
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            self._run(self._context, batch)
            logits = ctypes.cast(c.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
            yield (
                slice(start, start + len(piece)),
                np.ctypeslib.as_array(logits, (len(piece), width)).copy(),
            )
        c.llama_batch_free(batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", choices=["native", "reference"], default="native")
    parser.add_argument("--against", choices=["llama.cpp"])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    real = Real(cache_dir(), args.model)
    decoder = Decoder(real.config, real.weights, executor=args.engine, threads=args.threads)
    engines: dict[str, Steps] = {f"gemlet {args.engine}": lambda ids: run(decoder, ids)}
    details = {f"gemlet {args.engine}": f"{decoder.instruction_set}, cache {decoder.cache_type}"}
    if args.against:
        other = LlamaCppLogits(real.path, args.threads or decoder.threads)
        engines[other.name], details[other.name] = other, other.details
    rows = measure(real, engines, args.tokens)
    packages = ["torch", "transformers", "gguf", *(["llama-cpp-python"] if args.against else [])]
    settings = {"tokens": args.tokens, "engines": details, "weights": real.weights.weights_type}
    suffix = f"-{args.model.stem.lower().translate({46: 45, 95: 45})}" if args.model else ""
    print(write_result("fidelity" + suffix, rows, models=[real.path], packages=packages, settings=settings))


def measure(real: Real, engines: dict[str, Steps], tokens: int) -> list[dict[str, Any]]:
    """One row for each text and engine."""
    oracle: Any = LlamaOracle(real.path) if real.config.family == "llama" else Oracle.of_gguf(real.path)
    rows = []
    for text in TEXTS:
        ids = real.ids(text, tokens)
        for name, steps in engines.items():
            found = fidelity(steps(ids), oracle, ids)
            row = {"text": text, "engine": name, "mean KL": found.mean_kl}
            rows.append(row | {"99th percentile": found.p99_kl, "top-1 agreement": found.top1})
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
