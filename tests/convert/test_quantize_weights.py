"""Which matrix becomes what, inputs as they are gathered, and the whole on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gemlet.convert import quantize_weights
from gemlet.convert.quantize_weights import groups, plan, quantize
from gemlet.errors import InvalidRequestError
from gemlet.formats.dequantize import dequantize
from gemlet.model.decoder import Decoder
from gemlet.model.sources import Source, open_source
from gemlet.model.weights import load
from gemlet.ops.batch import Batch
from gemlet.ops.recording import RecordingExecutor
from tests.synthetic import tiny_config, write_tiny_gguf

TEXT = [list(np.random.default_rng(8).integers(110, 640, 300)), [2, 200, 300]]


def tiny(folder: Path, kinds: str = "F32") -> Source:
    write_tiny_gguf(folder / "in.gguf", tiny_config(layers=2), np.random.default_rng(0), kinds)
    return open_source(folder / "in.gguf")


def test_a_plan_keeps_the_embedding_at_8_bits_and_vectors_as_they_are(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    decided = plan(source, "q4_0")
    assert decided.kinds["token_embd"] == "Q8_0"
    assert {kind for name, kind in decided.kinds.items() if name != "token_embd"} == {"Q4_0"}
    assert set(decided.searched) == decided.kinds.keys() - {"token_embd"}
    assert not any(name.endswith("norm") for name in decided.kinds)
    assert plan(source, "q8_0").searched == ()
    assert plan(source, "q4_0", embedding="keep").kinds["token_embd"] == "F32"
    for wrong in ({"type": "q3"}, {"method": "magic"}, {"embedding": "q2"}):
        with pytest.raises(InvalidRequestError, match="is not one of"):
            plan(source, **{"type": "q4_0", **wrong})


def test_matrices_on_the_grid_are_rounded_plainly(tmp_path: Path) -> None:
    source = tiny(tmp_path, "Q4_0")
    decided = plan(source, "q4_0")
    assert decided.searched == ()
    assert len(decided.on_grid) == len(decided.kinds) - 1
    made = quantize(source, load(source.facts.path, cache_dir=None).weights, decided)
    assert all(error.error == 0 for error in made.errors if error.name != "token_embd")


def test_moments_are_those_of_the_inputs(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    weights = load(source.facts.path, cache_dir=None).weights
    decoder = Decoder(source.config, weights, executor=RecordingExecutor)
    executor = decoder._executor
    assert isinstance(executor, RecordingExecutor)
    first = [weights.packed[f"blk.0.attn_{part}"] for part in "qkv"]
    executor.watch([*first, weights.packed["blk.1.ffn_down"]])
    state = decoder.new_state()
    for ids in ([2, 300, 400], [500]):
        decoder.step(Batch.of([(state, ids)], logits="none"))
    # By hand: what goes into the first layer is the normed embedding.
    x = dequantize(source.tensors["token_embd"])[[2, 300, 400, 500]] * np.float32(
        source.config.embedding_scale
    )
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + source.config.rms_norm_eps)
    x = x * weights.vectors["blk.0.attn_norm"]
    for matrix in first:
        assert np.allclose(executor.moments(matrix), x.T @ x, rtol=1e-4, atol=1e-4)
    assert executor.moments(weights.packed["blk.1.ffn_down"]).shape == (96, 96)
    with pytest.raises(KeyError):
        executor.moments(weights.packed["blk.1.ffn_up"])


def test_a_smaller_memory_changes_the_passes_and_nothing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny(tmp_path)
    names = plan(source, "q4_0").searched
    assert len(groups(source, names)) == 1
    monkeypatch.setattr(quantize_weights, "MOMENT_BYTES", 1)
    assert len(groups(source, names)) == 2
    assert [name for group in groups(source, names) for name in group] == list(names)


def test_products_lose_less_than_by_plain_rounding(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    weights = load(source.facts.path, cache_dir=None).weights
    seen: list[tuple[int, int]] = []
    made = quantize(
        source, weights, plan(source, "q4_0"), TEXT, lambda what, done, total: seen.append((done, total))
    )
    searched = [error for error in made.errors if error.output_error is not None]
    assert len(searched) == 14
    for error in searched:
        assert error.output_error is not None
        assert error.plain_output_error is not None
        assert error.output_error < error.plain_output_error, error.name
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(InvalidRequestError, match="text"):
        quantize(source, weights, plan(source, "q4_0"))
