"""A sketched head gives the largest logits of the whole, bit by bit, and its bounds hold for every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError
from gemlet.model.decoder import Decoder
from gemlet.model.head import head_of, hidden_states
from gemlet.model.weights import Weights
from gemlet.ops.batch import Batch
from gemlet.ops.packed import Packed, unpack
from gemlet.ops.sketch import HeadSketch, build_sketch, can_sketch, finish
from tests.packing import packed_weights
from tests.synthetic import tiny_config, tiny_weights

HEADS = {"Q8_0": 160, "Q4_0": 160, "Q6_K": 256}  # and the columns of a model with such an embedding
VOCABULARY = 6003


def weights_of(kind: str) -> tuple[Decoder, Weights]:
    config = tiny_config(layers=2, hidden_size=HEADS[kind], vocab_size=VOCABULARY)
    weights = packed_weights(
        tiny_weights(config, np.random.default_rng(1)), {"token_embd": kind, "*": "BF16"}
    )
    return Decoder(config, weights), weights


def sketch_of(decoder: Decoder, weights: Weights) -> HeadSketch:
    made = finish(build_sketch(head_of(weights), finish(hidden_states(decoder, list(range(5, 800, 3))))))
    assert made is not None
    return made


def decoded(sketch: HeadSketch) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What head.h says the codes stand for: coarse and fine values, and |e|."""
    lines = sketch.arrays["panels"]
    wide, middle = sketch.bytes // 4, sketch.bytes // 4 + sketch.nibbles // 8
    parts = [lines[:, :wide]]
    for part, shifts, mask in ((lines[:, wide:middle], (0, 4), 15), (lines[:, middle:-1], (0, 2, 4, 6), 3)):
        parts.append(np.stack([part >> s & mask for s in shifts], axis=2).reshape(len(lines), -1, 64))
    codes = np.concatenate(parts, axis=1).reshape(len(lines), -1, 16, 4).transpose(0, 2, 1, 3)
    codes = codes.reshape(-1, sketch.columns)[: sketch.rows].astype(np.float64)
    most = np.repeat(
        [255, 15, 3], [sketch.bytes, sketch.nibbles, sketch.columns - sketch.bytes - sketch.nibbles]
    )
    steps = sketch.arrays["steps"].astype(np.float64)
    coarse = sketch.arrays["centres"] + steps * (codes - most / 2)
    fine = sketch.arrays["fine"]
    finer = np.stack([fine & 15, fine >> 4], axis=2).reshape(sketch.rows, -1)[:, : sketch.columns]
    reach = np.ascontiguousarray(lines[:, -1]).view(np.float32).reshape(-1)[: sketch.rows]
    return coarse, coarse + sketch.bounds[0] * steps * (finer - 7.5), reach.astype(np.float64)


@pytest.mark.parametrize("kind", HEADS)
def test_what_the_codes_leave_out_is_no_longer_than_it_says(kind: str) -> None:
    decoder, weights = weights_of(kind)
    sketch, head = sketch_of(decoder, weights), unpack(head_of(weights)).astype(np.float64)
    panels = sketch.arrays["inverse"].astype(np.float64)
    inverse = panels.transpose(1, 0, 2).reshape(sketch.columns, sketch.columns).T
    exact = head @ np.linalg.inv(inverse)
    coarse, fine, reach = decoded(sketch)
    assert (np.linalg.norm(exact - coarse, axis=1) <= reach).all()
    assert (np.linalg.norm(exact - fine, axis=1) <= reach - sketch.arrays["drops"]).all()
    assert reach.max() <= sketch.bounds[2]
    # Not by being useless: the codes hold most of what tells rows apart, the fine ones nearly all.
    spread = np.linalg.norm(exact - exact.mean(axis=0), axis=1)
    assert np.median(reach / spread) < 0.3
    assert np.median((reach - sketch.arrays["drops"]) / spread) < 0.06


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("top", [1, 64, VOCABULARY])
def test_the_largest_logits_are_those_of_the_whole_head(kind: str, top: int) -> None:
    decoder, weights = weights_of(kind)
    sketch = sketch_of(decoder, weights)
    ids = np.random.default_rng(2).integers(0, VOCABULARY, 20).astype(np.int32)
    rows = np.array([3, 19], np.int32)
    positions, none = np.arange(20, dtype=np.int32), np.zeros(0, np.int32)
    whole = decoder.step(Batch(ids, positions, (decoder.new_state(),), (20,), rows, none)).logits
    decoder.use_sketch(replace(sketch, top=top))
    output = decoder.step(Batch(ids, positions, (decoder.new_state(),), (20,), rows, none, top=top))
    assert output.largest is not None and output.logits.shape == (0, VOCABULARY)
    for row, largest in zip(whole, output.rows, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        assert np.array_equal(largest.ids, order)  # type: ignore[union-attr]
        assert np.array_equal(largest.values, row[order])  # type: ignore[union-attr]
    counts = decoder._executor.take_head_counts()  # type: ignore[union-attr]
    assert counts["queries"] == 2 and counts["whole"] == 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("sketched", [False, True])
@pytest.mark.parametrize("share", [1, 5, 600, 6002])
def test_the_largest_are_chosen_among_the_allowed_ids(kind: str, sketched: bool, share: int) -> None:
    decoder, weights = weights_of(kind)
    if sketched:
        decoder.use_sketch(sketch_of(decoder, weights))
    rng = np.random.default_rng(share)
    bits = np.zeros(VOCABULARY, np.uint8)
    bits[rng.choice(VOCABULARY, share, replace=False)] = 1
    ids = rng.integers(0, VOCABULARY, 20).astype(np.int32)
    rows = np.array([3, 19], np.int32)
    positions, none = np.arange(20, dtype=np.int32), np.zeros(0, np.int32)
    batch = Batch(ids, positions, (decoder.new_state(),), (20,), rows, none)
    whole = decoder.step(batch).logits
    for top in (1, 16, 64):
        allowed = (None, np.packbits(bits, bitorder="little"))
        asked = replace(batch, states=(decoder.new_state(),), top=top, allowed=allowed)
        output = decoder.step(asked)
        for row, largest, may in zip(whole, output.rows, (np.ones(VOCABULARY), bits), strict=True):
            order = np.argsort(-row, kind="stable")
            order = order[may[order] == 1][:top]
            assert np.array_equal(largest.ids, order)  # type: ignore[union-attr]
            assert np.array_equal(largest.values, row[order])  # type: ignore[union-attr]


def test_bits_of_another_vocabulary_are_refused() -> None:
    decoder, _ = weights_of("Q8_0")
    batch = replace(Batch.of([(decoder.new_state(), [5])]), top=1)
    for bits in (np.zeros(10, np.uint8), np.zeros(VOCABULARY, np.uint8), np.zeros(751, np.int8)):
        with pytest.raises(InvalidRequestError, match="bits"):
            decoder.step(replace(batch, allowed=(bits,)))
    with pytest.raises(InvalidRequestError, match="sets of ids"):
        replace(batch, allowed=(None, None))
    with pytest.raises(InvalidRequestError, match="sets of ids"):
        replace(batch, top=0, allowed=(None,))


def test_more_than_it_serves_come_from_the_whole_head() -> None:
    decoder, weights = weights_of("Q8_0")
    decoder.use_sketch(sketch_of(decoder, weights))
    for top, used in ((16, 1), (17, 0)):
        decoder.step(replace(Batch.of([(decoder.new_state(), [5])]), top=top))
        assert decoder._executor.take_head_counts()["queries"] == used  # type: ignore[union-attr]


def test_a_program_refuses_the_sketch_of_another_head() -> None:
    decoder, _ = weights_of("Q8_0")
    other = packed_weights(
        {"token_embd": np.random.default_rng(0).normal(size=(500, 160)).astype(np.float32)}, "Q8_0"
    )
    sketch = finish(build_sketch(head_of(other), np.eye(160, dtype=np.float32)))
    assert sketch is not None
    with pytest.raises(InvalidRequestError, match="another shape"):
        decoder.use_sketch(sketch)


@pytest.mark.parametrize("hidden", [np.zeros((4, 160)), np.full((4, 160), np.nan)])
def test_states_that_say_nothing_make_no_sketch(hidden: NDArray[np.float64]) -> None:
    _, weights = weights_of("Q8_0")
    assert finish(build_sketch(head_of(weights), hidden.astype(np.float32))) is None


@pytest.mark.parametrize("format", ["f32", "bf16", "i4m", "i8m"])
def test_heads_of_other_formats_are_left_alone(format: str) -> None:
    head = Packed(format, 32, 64, {})  # type: ignore[arg-type]
    assert not can_sketch(head)
    assert finish(build_sketch(head, np.ones((3, 64), np.float32))) is None
