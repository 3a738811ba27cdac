"""The benchmark scripts run, on a tiny model, and write what a table needs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.repo.sources import ROOT
from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("results_file", "engines", "speed", "memory", "start", "adapters")
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(0), "Q4_0")
    return path


def test_a_round_measures_every_engine(
    scripts: dict[str, ModuleType], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts["speed"], "PAUSE_S", 0.0)
    monkeypatch.setattr(
        scripts["speed"], "random_ids", lambda count, seed: [300 + i % 300 for i in range(count)]
    )
    ours, other = (scripts["engines"].Gemlet(model, 1) for _ in range(2))
    other.name = "llama.cpp"
    measured = scripts["speed"].one_round([ours, other], 4, [2], 1)
    assert list(measured) == [
        "prefill 512",
        "decode",
        "prefill 2048",
        "decode after 2048",
        "decode, 2 streams",
    ]
    assert all(speed > 0 for speeds in measured.values() for speed in speeds.values())
    row = scripts["speed"].row("decode", {"gemlet": [30.0, 20.0, 10.0], "llama.cpp": [10.0, 10.0, 10.0]})
    assert row["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    ours.close()
    other.close()


def test_adapters_are_measured_beside_none(
    scripts: dict[str, ModuleType], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["adapters"]
    monkeypatch.setattr(script, "random_ids", lambda count, seed: [300 + i % 300 for i in range(count)])
    engine = scripts["engines"].Gemlet(model, 1)
    for seed in range(script.STREAMS):
        size = engine.adapt(script.random_parts(engine.config, 4, seed))
    layers = [shape for name, shape in engine.config.tensor_shapes().items() if name.startswith("blk.")]
    matrices = [shape for shape in layers if len(shape) == 2]
    assert size >= sum(2 * 4 * sum(shape) for shape in matrices)
    measured = script.one_round(engine, 4, 0)
    assert list(measured) == ["prefill 512", "decode", "decode, 4 streams"]
    assert all(speed > 0 for pair in measured.values() for speed in pair)
    assert script.row("decode", [(10.0, 9.0)])["ratio"]["median"] == 0.9
    engine.close()


def test_memory_is_measured(
    scripts: dict[str, ModuleType], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts["memory"], "random_ids", lambda count, seed: [300] * count)
    rows = {row["what"]: row["MiB"] for row in scripts["memory"].measure(model, 4096, 512)}
    assert 0 < rows["model file"] < 10
    assert rows["resident after loading"] > rows["Python with gemlet imported"] * 0.5
    assert 0 < rows["KV state of 512 tokens"] < rows["KV state of 4096 tokens, computed beforehand"]


def test_the_first_byte_is_awaited(scripts: dict[str, ModuleType]) -> None:
    command = [sys.executable, "-c", "import time; print('x', flush=True); time.sleep(0.5)"]
    assert scripts["start"].first_byte(command) < 0.5
    with pytest.raises(SystemExit):
        scripts["start"].first_byte([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_result_says_where_it_comes_from(
    scripts: dict[str, ModuleType], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = scripts["results_file"]
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.write_result("speed", [{"what": "x", "value": results.spread([3, 1, 2])}], models=[model])
    written = json.loads(path.read_text())
    assert path.parent == tmp_path
    assert written["rows"] == [{"what": "x", "value": {"median": 2, "low": 1, "high": 3}}]
    assert len(written["commit"].removesuffix("-dirty")) == 40
    assert written["files"]["tiny.gguf"]["bytes"] == model.stat().st_size
    assert {"gemlet", "numpy", "python"} <= set(written["versions"])
    assert written["machine"]["threads"] >= 1
