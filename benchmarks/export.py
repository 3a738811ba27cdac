"""What exports compute in the programs they are for, against float32 on the same weights.

Usage: export.py [--model FILE] [--tokens 256]
The model is the real 270M, or another GGUF file of a Gemma 3 or of a Llama with tied embeddings.
The oracle is transformers in float32 on the source's dequantised weights. GGUF files are computed by
llama.cpp, folders by transformers in float32; also the source itself, and files with a seeded fault. Measured
at every position of three texts: mean KL divergence in nats, how often the likeliest token is the same, and
for the folder in float32 the largest difference of a logit beside what float32 allows.
Writes benchmarks/results/export-*.json. Needs the `demo` extra, torch, transformers, gguf, llama-cpp-python.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fidelity import LlamaCppLogits
from transformers import AutoModelForCausalLM

from gemlet.convert.export import gguf_changes
from gemlet.convert.folder_writer import write_folder
from gemlet.convert.gguf_writer import gguf_tensors, write_gguf
from gemlet.convert.tensors import OutputTensor, encoded, values_of
from gemlet.model.sources import Source, open_source
from gemlet.store.settings import cache_dir
from results_file import write_result
from tests.parity.oracle import Float32, Oracle, fidelity, rounding_tolerance
from tests.parity.real import TEXTS, Real
from tests.parity.smollm2 import LlamaOracle

Steps = Callable[[Sequence[int]], Iterator[tuple[slice, Float32]]]
TYPES = (None, "F32", "BF16", "F16", "Q8_0", "Q4_0")


class Transformers:
    """A folder in transformers, in float32."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        self._model.eval()

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int]) -> Iterator[tuple[slice, Float32]]:
        hidden = self._model.model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]
        for start in range(0, len(ids), 64):
            rows = slice(start, min(start + 64, len(ids)))
            yield rows, self._model.lm_head(hidden[rows]).numpy()


def faults(source: Source) -> dict[str, dict[str, OutputTensor]]:
    """Tensors that are wrong, by the name of the fault."""
    outputs = gguf_tensors(source)
    norms = [name for name, tensor in source.tensors.items() if len(tensor.shape) == 1]

    def off(name: str) -> OutputTensor:
        values = values_of(source.tensors[name])
        return encoded("F32", source.tensors[name].shape, lambda a, b: values(a, b) - np.float32(1))

    swapped = ("blk.7.ffn_gate", "blk.7.ffn_up")
    return {
        "fault: two tensors swapped": dict(
            zip(swapped, (outputs[f"{name}.weight"] for name in swapped[::-1]), strict=True)
        ),
        "fault: one norm off by one": {"blk.7.ffn_norm": off("blk.7.ffn_norm")},
        "fault: every norm off by one": {name: off(name) for name in norms},
    }


def measure(name: str, steps: Steps, oracle: Any, texts: dict[str, list[int]], size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"export": name, "bytes": size}
    found = [fidelity(steps(ids), oracle, ids) for ids in texts.values()]
    row["mean_kl"] = float(np.mean([each.mean_kl for each in found]))
    row["p99_kl"] = max(each.p99_kl for each in found)
    row["top1"] = float(np.mean([each.top1 for each in found]))
    print(f"{name:<30} {size / 1e6:8.1f} MB  KL {row['mean_kl']:.3g}  top-1 {row['top1']:.3f}", flush=True)
    return row


def worst(steps: Steps, oracle: Any, real: Real, texts: dict[str, list[int]]) -> dict[str, float]:
    """The largest difference of a logit, and what float32 allows."""
    differences, allowed = [], []
    for ids in texts.values():
        hidden = oracle.hidden(ids)
        for rows, logits in steps(ids):
            expected = oracle.logits(hidden[rows])
            differences.append(float(np.abs(logits - expected).max()))
            allowed.append(rounding_tolerance(real.config, expected))
    return {"worst_logit": max(differences), "float32_allows": max(allowed)}


def of_gguf(path: Path, context: int) -> Steps:
    return LlamaCppLogits(path, 2, context)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=256, help="of each of the three texts")
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    tokens, real = args.tokens, Real(cache_dir(), args.model)
    source = open_source(real.path)
    oracle: Any = LlamaOracle(real.path) if real.config.family == "llama" else Oracle.of_gguf(real.path)
    texts = {name: real.ids(name, tokens) for name in TEXTS}
    rows = [measure("source", of_gguf(real.path, tokens), oracle, texts, real.path.stat().st_size)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.gguf"
        for kind in TYPES:
            written = write_gguf(path, source, gguf_changes(source, kind, {}), force=True)
            name = f"gguf {(kind or 'as stored').lower()}"
            rows.append(measure(name, of_gguf(path, tokens), oracle, texts, written.nbytes))
        for name, tensors in faults(source).items():
            written = write_gguf(path, source, tensors, force=True)
            rows.append(measure(name, of_gguf(path, tokens), oracle, texts, written.nbytes))
        for kind in ("F32", "BF16"):
            written = write_folder(Path(folder) / "out", source, kind, force=True)
            steps = Transformers(Path(folder) / "out")
            row = measure(f"transformers {kind.lower()}", steps, oracle, texts, written.nbytes)
            rows.append(row | (worst(steps, oracle, real, texts) if kind == "F32" else {}))
    packages = ("torch", "transformers", "gguf", "llama-cpp-python")
    suffix = f"-{args.model.stem.lower().translate({46: 45, 95: 45})}" if args.model else ""
    print(
        write_result(
            "export" + suffix, rows, models=[real.path], packages=packages, settings={"tokens": tokens}
        )
    )


if __name__ == "__main__":
    main()
