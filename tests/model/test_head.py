"""The kept sketch: made once, taken for its own weights only, and never trusted when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemlet.model import head as module
from gemlet.model.decoder import Decoder
from gemlet.model.head import head_of, hidden_states, read_sketch, use_sketch, write_sketch
from gemlet.model.weights import Weights
from gemlet.ops.batch import Batch
from gemlet.ops.sketch import build_sketch, finish
from tests.packing import packed_weights
from tests.synthetic import tiny_config, tiny_weights

CONFIG = tiny_config(layers=1, vocab_size=300)
IDS = list(range(4, 300))


@pytest.fixture
def weights() -> Weights:
    tensors = tiny_weights(CONFIG, np.random.default_rng(0))
    return packed_weights(tensors, {"token_embd": "Q8_0", "*": "BF16"})


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    monkeypatch.setattr(module, "LEAST_SHARE", 0)


def largest_ids(decoder: Decoder) -> list[int]:
    output = decoder.step(replace(Batch.of([(decoder.new_state(), IDS[:9])]), top=7))
    assert output.largest is not None
    return [int(id) for id in output.largest[0].ids]


@pytest.mark.usefixtures("any_size")
def test_a_sketch_is_made_once(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first = tmp_path / "kept.head", Decoder(CONFIG, weights)
    expected = largest_ids(first)
    finish(use_sketch(first, weights, lambda: IDS, path))
    assert largest_ids(first) == expected
    monkeypatch.setattr(module, "build_sketch", lambda *_: pytest.fail("made again"))
    second = Decoder(CONFIG, weights)
    assert next(use_sketch(second, weights, lambda: IDS, path), "there") == "there"
    assert largest_ids(second) == expected
    assert second._executor.take_head_counts()["queries"] == 1  # type: ignore[union-attr]


def test_a_small_head_has_none(weights: Weights, tmp_path: Path) -> None:
    finish(use_sketch(Decoder(CONFIG, weights), weights, lambda: IDS, tmp_path / "kept.head"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("share", "files"), [(0.0, 1), (1.0, 0)])
def test_a_head_that_is_a_small_part_of_the_weights_has_none(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, files: int
) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    monkeypatch.setattr(module, "LEAST_SHARE", share)
    finish(use_sketch(Decoder(CONFIG, weights), weights, lambda: IDS, tmp_path / "kept.head"))
    assert len(list(tmp_path.iterdir())) == files


@pytest.mark.usefixtures("any_size")
def test_a_sketch_serves_where_it_cannot_be_kept(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    decoder = Decoder(CONFIG, weights)
    finish(use_sketch(decoder, weights, lambda: IDS, tmp_path / "file" / "kept.head"))
    largest_ids(decoder)
    assert decoder._executor.take_head_counts()["queries"] == 1  # type: ignore[union-attr]


def test_only_the_whole_sketch_of_these_weights_is_read(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "kept.head"
    assert read_sketch(path, weights) is None
    sketch = finish(build_sketch(head_of(weights), finish(hidden_states(Decoder(CONFIG, weights), IDS))))
    assert sketch is not None
    write_sketch(path, sketch, weights)
    read = read_sketch(path, weights)
    assert read is not None and read.bounds == sketch.bounds
    assert all(np.array_equal(read.arrays[name], array) for name, array in sketch.arrays.items())
    assert read_sketch(path, replace(weights, sha256="1" * 64)) is None
    assert read_sketch(path, replace(weights, weights_type="other")) is None
    data = path.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], b"", data.replace(b"0x1.", b"0y1.", 1)):
        path.write_bytes(damaged)
        assert read_sketch(path, weights) is None
