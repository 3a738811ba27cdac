"""From training to a file for other programs: every step of the way computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gemlet.convert.export import Order, export
from gemlet.evaluate.quality import measure_rows
from gemlet.model.adapters import read_adapter
from gemlet.model.decoder import Decoder
from gemlet.model.sources import open_source
from gemlet.ops.batch import Batch
from gemlet.tune.network import Batch as TrainingBatch
from gemlet.tune.network import Network
from tests.parity.oracle import rounding_tolerance
from tests.tune.training import CONFIG, SETTINGS, examples, opened, trained, write_model

Logits = NDArray[np.float32]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Network]:
    """A base in a file, the folder of a run on it, and the network as training left it."""
    folder = tmp_path_factory.mktemp("arrow")
    model = write_model(folder)
    settings = replace(SETTINGS, precision="f32", lora=replace(SETTINGS.lora, dropout=0.0))
    network, _ = trained(model, folder / "out", settings)
    return model, folder / "out", network


IDS = [int(i) for item in examples(4, seed=9) for i in item.ids]


def by_training(network: Network) -> Logits:
    """The logits behind every token but the last."""
    ids = np.array(IDS, np.int32)
    with torch.no_grad():
        hidden = network.hidden(TrainingBatch.of([(ids, np.arange(len(ids)) > 0)]))
        logits: Logits = (hidden @ network.head.dense().T).numpy()
    return logits


def by_engine(path: Path, executor: str, adapter: Path | None = None) -> Logits:
    loaded = opened(path)
    decoder = Decoder(loaded.facts.config, loaded.weights, executor=executor)
    batch: Any = Batch.of([(decoder.new_state(), IDS[:-1])], logits="all")
    if adapter is not None:
        added = decoder.adapter(read_adapter(adapter, loaded.facts.config, loaded.weights.sha256).parts)
        batch = replace(batch, adapters=(added,))
    logits: Logits = decoder.step(batch).logits
    return logits


def divergence(one: Logits, other: Logits) -> float:
    return float(measure_rows(one, other, [])[:, 0].mean())


def test_every_step_computes_the_same(tuned: tuple[Path, Path, Network], tmp_path: Path) -> None:
    model, out, network = tuned
    expected = by_training(network)
    tolerance = rounding_tolerance(CONFIG, expected)
    plain = by_engine(model, "reference")
    assert np.abs(plain - expected).max() > 1000 * tolerance  # something was learned

    assert np.abs(by_engine(model, "reference", out) - expected).max() <= tolerance

    merged = tmp_path / "merged.gguf"
    export(open_source(model), "tiny", Order(merged, "gguf", "f32"), adapter=out)
    assert np.abs(by_engine(merged, "reference") - expected).max() <= tolerance

    learned = divergence(expected, plain)
    losses = []
    for kind in ("bf16", "q8_0", "q4_0"):
        smaller = tmp_path / f"{kind}.gguf"
        export(open_source(merged), "tiny", Order(smaller, "gguf", kind))
        losses.append(divergence(expected, by_engine(smaller, "reference")))
    # Each type keeps fewer bits, and none loses what was learned.
    assert 0 < losses[0] < losses[1] < losses[2] < learned / 10

    for path, adapter in ((model, out), (merged, None)):
        assert divergence(expected, by_engine(path, "native", adapter)) < 1e-4


@pytest.mark.peer
def test_llama_cpp_computes_what_was_trained(tuned: tuple[Path, Path, Network], tmp_path: Path) -> None:
    """The check of the export runs both files there, and fails where a logit is not as expected."""
    model, out, _ = tuned
    merged = export(open_source(model), "tiny", Order(tmp_path / "m.gguf", "gguf", "f32"), adapter=out)
    assert merged.logits is not None and merged.logits.mean_kl < 1e-4
    small = export(open_source(tmp_path / "m.gguf"), "tiny", Order(tmp_path / "q.gguf", "gguf", "q8_0"))
    assert small.logits is not None and small.logits.mean_kl < 1e-3
