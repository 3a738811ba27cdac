"""The sketch of a model's head, fitted once to the model's own hidden states and kept beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import GemletError
from gemlet.formats.safetensors import read_arrays, write_safetensors
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Weights
from gemlet.ops.batch import Batch
from gemlet.ops.packed import Packed
from gemlet.ops.sketch import ARRAYS, HeadSketch, Pieces, build_sketch, can_sketch

VERSION = "1"
"""Of the kept file; raised when the layout or the way it is made change."""

LEAST_BYTES = 64 << 20
"""Smaller heads are read as fast as a sketch can say what to leave out."""

LEAST_SHARE = 0.5
"""Of all weights, from which a head has a sketch: a smaller one gains less than its memory is worth."""

READ_ROWS = 64
"""A step's of the samples: few, so that a request need not wait long for one."""


def head_of(weights: Weights) -> Packed:
    """The matrix that turns hidden states into logits: the embedding, unless there is another."""
    return weights.packed.get("output", weights.packed["token_embd"])


def gains_by_sketch(weights: Weights) -> bool:
    """Whether the head of these weights gets a sketch."""
    head = head_of(weights)
    return head.nbytes >= max(LEAST_BYTES, LEAST_SHARE * weights.nbytes) and can_sketch(head)


def use_sketch(
    decoder: Decoder, weights: Weights, samples: Callable[[], Sequence[int]], path: Path | None
) -> Pieces[None]:
    """Give the decoder the sketch of its head that is kept at `path`, or make one and keep it there.

    samples: gives ids of typical text, which it is fitted to; what is unlike them is only slower. Does
    nothing for a head that is small, or small beside the other weights. A kept one is there after the first
    piece. One that cannot be kept, for want of room or rights, serves as long as the decoder.
    """
    if not gains_by_sketch(weights):
        return
    head = head_of(weights)
    sketch = None if path is None else read_sketch(path, weights)
    if sketch is not None:
        decoder.use_sketch(sketch)
        return
    yield
    sketch = yield from build_sketch(head, (yield from hidden_states(decoder, samples())))
    if sketch is None:
        return
    decoder.use_sketch(sketch)
    if path is not None:
        with suppress(OSError):
            write_sketch(path, sketch, weights)


def hidden_states(decoder: Decoder, ids: Sequence[int]) -> Pieces[NDArray[np.float32]]:
    """Final hidden states of all ids, float32 [len(ids), hidden_size], read as texts of 1,024 tokens."""
    parts = []
    length = min(1024, decoder.config.context_length)
    for start in range(0, len(ids), length):
        state, text = decoder.new_state(), ids[start : start + length]
        for first in range(0, len(text), READ_ROWS):
            piece = text[first : first + READ_ROWS]
            parts.append(decoder.step(Batch.of([(state, piece)], logits="none", hidden="all")).hidden)
            yield
    return np.concatenate(parts)


def write_sketch(path: Path, sketch: HeadSketch, weights: Weights) -> None:
    """Keep a sketch in a file that takes the place of `path` when it is complete."""
    metadata = {
        "gemlet_head_sketch": VERSION,
        "sha256": weights.sha256,
        "weights_type": weights.weights_type,
        "shape": " ".join(map(str, (sketch.rows, sketch.columns, sketch.bytes, sketch.nibbles))),
        "bounds": " ".join(bound.hex() for bound in sketch.bounds),
    }
    write_safetensors(path, sketch.arrays, metadata)


def read_sketch(path: Path, weights: Weights) -> HeadSketch | None:
    """The kept sketch of these weights; None if there is none, or one of other weights."""
    head = head_of(weights)
    try:
        arrays, metadata = read_arrays(path)
        if metadata["gemlet_head_sketch"] != VERSION or metadata["sha256"] != weights.sha256:
            return None
        if metadata["weights_type"] != weights.weights_type:
            return None
        rows, columns, wide, middle = map(int, metadata["shape"].split())
        fine_step, slack, largest = map(float.fromhex, metadata["bounds"].split())
        parts = {name: arrays[name] for name in ARRAYS}
    except (GemletError, OSError, KeyError, ValueError):
        return None
    if (rows, columns) != (head.rows, head.columns):
        return None
    return HeadSketch(rows, columns, wide, middle, parts, (fine_step, slack, largest))
