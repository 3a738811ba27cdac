"""The sketched head on real weights: the same largest logits as the whole head, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemlet.model.decoder import Decoder
from gemlet.model.head import use_sketch
from gemlet.ops.batch import Batch
from gemlet.ops.sketch import finish
from tests.parity.real import Real

TOKENS, STEPS = 600, 24


@pytest.fixture(scope="module")
def sketched(real: Real, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    """With a sketch fitted to one of the three texts only."""
    decoder = Decoder(real.config, real.weights)
    use = decoder.use_sketch
    decoder.use_sketch = lambda sketch: use(replace(sketch, top=64))  # type: ignore[method-assign]
    path: Path = tmp_path_factory.mktemp("sketch") / "kept.head"
    finish(use_sketch(decoder, real.weights, lambda: real.ids("code", 1024), path))
    assert path.exists()
    yield decoder
    decoder.close()


@pytest.mark.parametrize("top", [1, 64])
@pytest.mark.parametrize("text", ["prose", "code", "other language"])
def test_the_largest_logits_are_the_whole_heads(real: Real, sketched: Decoder, text: str, top: int) -> None:
    ids, state = real.ids(text, TOKENS + STEPS), sketched.new_state()
    for start in range(0, TOKENS, 200):
        sketched.step(Batch.of([(state, ids[start : start + 200])], logits="none"))
    sketched._executor.take_head_counts()  # type: ignore[union-attr]
    for position in range(TOKENS, TOKENS + STEPS):
        twin = state.copy()
        (row,) = sketched.step(Batch.of([(twin, ids[position : position + 1])])).logits
        output = sketched.step(replace(Batch.of([(state, ids[position : position + 1])]), top=top))
        assert output.largest is not None
        expected_ids, expected = sketched.top_k(row, top)
        assert np.array_equal(output.largest[0].ids, expected_ids)
        assert np.array_equal(output.largest[0].values, expected)
    counts = sketched._executor.take_head_counts()  # type: ignore[union-attr]
    assert counts["queries"] == STEPS and counts["whole"] == 0
    if top == 1 and text != "other language":  # what it is used for, and texts it can know something of
        assert counts["doubtful"] < 0.2 * STEPS * real.config.vocab_size
