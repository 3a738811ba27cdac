"""What 8-bit and 4-bit weights lose on the 270M model, computed in float32: plain rounding and the search.

Usage: quantize.py [--model FILE] [--tokens N] [--calibration-tokens N] [--variants q8_0,plain,search]
The source is the model as stored, dequantised. The search sees the built-in calibration text, the measurement
the held-out text. Writes benchmarks/results/quantize-*.json. Needs the `demo` and `convert` extras.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gemlet.convert.gguf_writer import write_gguf
from gemlet.convert.quantize_weights import plan, quantize
from gemlet.evaluate.choices import read_questions
from gemlet.evaluate.quality_report import measure
from gemlet.evaluate.texts import HELD_OUT, Documents, read_documents
from gemlet.model.sources import Source, open_source
from gemlet.model.weights import Loaded, load
from gemlet.store.embedded import embedded_model
from gemlet.store.load import SAMPLES
from gemlet.store.settings import cache_dir
from gemlet.text.tokenizer import Tokenizer
from results_file import write_result

VARIANTS = {"q8_0": ("q8_0", "plain"), "plain": ("q4_0", "plain"), "search": ("q4_0", "search")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--no-questions", action="store_true")
    args = parser.parse_args()

    path = args.model or embedded_model(cache_dir())
    source, loaded = open_source(path), load(path, "stored", cache_dir=None)
    tokenizer = Tokenizer.from_source(source.facts.tokenizer, cache_dir())
    calibration = read_documents(SAMPLES, tokenizer, args.calibration_tokens)
    text = read_documents(HELD_OUT, tokenizer, args.tokens)
    rows = []
    for variant in args.variants.split(","):
        row = measured(source, loaded, tokenizer, variant, calibration, text, not args.no_questions)
        print({key: row[key] for key in ("variant", "seconds", "bytes")}, row["quality"]["kl"], flush=True)
        rows.append(row)
    settings = {"calibration tokens": calibration.tokens, "held-out tokens": text.tokens}
    print(write_result("quantize", rows, models=[path], packages=["gguf"], settings=settings))


def measured(
    source: Source,
    loaded: Loaded,
    tokenizer: Tokenizer,
    variant: str,
    calibration: Documents,
    text: Documents,
    with_questions: bool,
) -> dict[str, Any]:
    """One variant, written, read again and measured."""
    type, method = VARIANTS[variant]
    decided = plan(source, type, "search" if method == "search" else "plain")
    began = time.perf_counter()
    made = quantize(source, loaded.weights, decided, calibration.ids)
    seconds = time.perf_counter() - began
    questions: Sequence[Any] = read_questions() if with_questions else ()
    with TemporaryDirectory() as folder:
        written = write_gguf(Path(folder) / "out.gguf", source, made.tensors)
        again = load(written.path, "stored", cache_dir=None)
        report = measure(loaded, again, tokenizer, text, questions)
    searched = [error for error in made.errors if error.output_error is not None]
    document = report.document()
    errors = {
        "mean error of products": mean([error.output_error or 0 for error in searched]),
        "mean error of products, plain rounding": mean([error.plain_output_error or 0 for error in searched]),
        "mean error of weights": mean([error.error for error in made.errors]),
    }
    return {"variant": variant, "seconds": seconds, "bytes": written.nbytes, **errors, "quality": document}


def mean(values: Sequence[float]) -> float | None:
    """None for no values."""
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    main()
