"""What a sketch of the head leaves to read on real hidden states, and what that does to the time of a token.

Usage: head.py [--tokens 48] [--context 600] [--threads N] [--ideas]
The real 270M of the `demo` extra, on three texts, for the largest logit (greedy) and the 64 largest. Both
ways of computing a token run alternately, and their results are compared bit by bit. Also the processor time
of the calling thread, which is what to look at on a machine that does other work.
--ideas: also what share of the head's rows simpler bounds leave, with the best threshold there can be.
Writes benchmarks/results/head-*.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gemlet.evaluate.record import spread
from gemlet.model.decoder import Decoder
from gemlet.model.head import head_of, hidden_states, use_sketch
from gemlet.model.weights import packed_path
from gemlet.ops.batch import Batch
from gemlet.ops.packed import Packed
from gemlet.ops.sketch import HeadSketch, finish
from gemlet.store.load import SAMPLES
from gemlet.store.settings import cache_dir
from results_file import write_result
from tests.parity.real import TEXTS, Real

TOPS = (1, 64)
SLICE = 4096  # rows of the head


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ideas", action="store_true")
    args = parser.parse_args()
    real = Real(cache_dir())
    plain, sketched = (Decoder(real.config, real.weights, threads=args.threads) for _ in range(2))
    samples = real.tokenizer.encode(SAMPLES.read_text(encoding="utf-8"), bos=True)
    kept: list[HeadSketch] = []
    use = sketched.use_sketch

    def keep(sketch: HeadSketch) -> None:
        kept.append(sketch)
        use(replace(sketch, top=max(TOPS)))

    sketched.use_sketch = keep  # type: ignore[method-assign]
    path = packed_path(real.path, "auto", cache_dir()).with_suffix(".head")
    finish(use_sketch(sketched, real.weights, lambda: samples, path))
    rows = []
    for text in TEXTS:
        for top in TOPS:
            ids = real.ids(text, args.context + args.tokens)
            row = measure(plain, sketched, ids, args.context, top)
            counts = row.pop("counts")
            rows.append({"text": text, "top": top, **shares(head_of(real.weights), kept[0], counts), **row})
            print(rows[-1], flush=True)
    if args.ideas:
        rows += list(ideas(real, plain, args.context, args.tokens))
    settings = {"tokens": args.tokens, "context": args.context, "threads": plain.threads}
    print(write_result("head", rows, models=[real.path], settings=settings))


def measure(plain: Decoder, sketched: Decoder, ids: Sequence[int], context: int, top: int) -> dict[str, Any]:
    """Milliseconds of a token with the whole head and with the sketch, alternating; the sketch's counts."""
    states = [decoder.new_state() for decoder in (plain, sketched)]
    for decoder, state in zip((plain, sketched), states, strict=True):
        for start in range(0, context, 200):
            decoder.step(Batch.of([(state, ids[start : min(context, start + 200)])], logits="none"))
    counter = sketched._executor
    counter.take_head_counts()  # type: ignore[union-attr]
    times: tuple[list[float], list[float]] = ([], [])
    busy: tuple[list[float], list[float]] = ([], [])
    for token in ids[context:]:
        found = []
        for decoder, state, spent, used in zip((plain, sketched), states, times, busy, strict=True):
            batch = replace(Batch.of([(state, [token])]), top=top)
            began, began_busy = time.perf_counter(), time.thread_time()
            found.append(decoder.step(batch).rows[0])
            spent.append(1e3 * (time.perf_counter() - began))
            used.append(1e3 * (time.thread_time() - began_busy))
        if not all(np.array_equal(getattr(found[0], f), getattr(found[1], f)) for f in ("ids", "values")):
            raise AssertionError("the sketched head found other logits than the whole head")
    counts = counter.take_head_counts()  # type: ignore[union-attr]
    ratio = [whole / less for whole, less in zip(*times, strict=True)]
    result: dict[str, Any] = {"counts": counts, "ratio": spread(ratio)}
    for name, (whole, less) in (("ms", times), ("busy_ms", busy)):
        result |= {f"whole_{name}": spread(whole), f"sketched_{name}": spread(less)}
    return result


def shares(head: Packed, sketch: HeadSketch, counts: dict[str, int]) -> dict[str, float]:
    """Of the head's rows, and of its bytes."""
    queries = max(1, counts["queries"])
    fine = sketch.arrays["fine"].nbytes / head.rows
    panel = head.nbytes / -(-head.rows // 16)
    read = sketch.arrays["panels"].nbytes + sketch.arrays["inverse"].nbytes
    read += (counts["doubtful"] * fine + counts["panels"] * panel) / queries
    return {
        "doubtful": counts["doubtful"] / queries / head.rows,
        "likely": counts["likely"] / queries / head.rows,
        "panels": 16 * counts["panels"] / queries / head.rows,
        "bytes_read": read / head.nbytes,
        "bytes_kept": sketch.nbytes / head.nbytes,
    }


# --- Simpler bounds


def ideas(real: Real, decoder: Decoder, context: int, tokens: int) -> Iterator[dict[str, Any]]:
    """The share of rows that the upper bits of the codes leave, with a bound on the lower by blocks of 32."""
    head = head_of(real.weights)
    for text in TEXTS:
        states = finish(hidden_states(decoder, real.ids(text, context + tokens)))[context:]
        exact = np.concatenate([product(codes, scales, states) for codes, scales in slices(head)], axis=1)
        least = {top: np.sort(exact, axis=1)[:, -top] for top in TOPS}
        for bits in (3, 4, 5, 6):
            bounds = np.concatenate([bound(c, s, states, bits) for c, s in slices(head)], axis=1)
            for top in TOPS:
                left = float((bounds >= least[top][:, None]).mean())
                yield {"text": text, "top": top, "idea": f"upper {bits} of 8 bits", "doubtful": left}
                print(text, top, bits, left, flush=True)


def slices(head: Packed) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Codes, signed, [rows, columns] and scales [rows, blocks] of an i8 matrix."""
    step = SLICE // 16
    for start in range(0, len(head.arrays["quants"]), step):
        quants = head.arrays["quants"][start : start + step].transpose(0, 3, 1, 2, 4)
        scales = head.arrays["scales"][start : start + step].transpose(0, 2, 1)
        codes = quants.reshape(-1, head.columns).astype(np.float32) - 128
        yield codes, scales.reshape(len(codes), -1).astype(np.float32)


def product(codes: NDArray[Any], scales: NDArray[Any], states: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = states @ (codes * np.repeat(scales, 32, axis=1)).T
    return result


def bound(
    codes: NDArray[Any], scales: NDArray[Any], states: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """Upper bounds of the logits, [states, rows]."""
    step = 2 ** (8 - bits)
    coarse = np.floor(codes / step) * step + (step - 1) / 2
    lengths = np.linalg.norm((codes - coarse).reshape(len(codes), -1, 32), axis=2) * scales
    inputs = np.linalg.norm(states.reshape(len(states), -1, 32), axis=2)
    result: NDArray[np.float32] = product(coarse, scales, states) + inputs @ lengths.T
    return result


if __name__ == "__main__":
    main()
