"""The scripts beside the results write what a table needs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gemlet.evaluate.record import spread
from tests.repo.sources import ROOT
from tests.synthetic import tiny_config, write_tiny_gguf

NAMES = ("results_file", "prefix", "adapters")


@pytest.fixture
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts of benchmarks/ as modules, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield {name: importlib.import_module(name) for name in NAMES}
        for name in NAMES:
            sys.modules.pop(name)


@pytest.fixture
def results(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["results_file"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(0), "Q4_0")
    return path


@pytest.fixture
def tables() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("readme_tables")
        sys.modules.pop("readme_tables")


def test_a_prefix_is_read_once(
    scripts: dict[str, ModuleType], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = scripts["prefix"]
    monkeypatch.setattr(
        prefix, "random_ids", lambda count, seed: [300 + (i + seed) % 300 for i in range(count)]
    )
    engine = prefix.open_engine(model, tmp_path)
    ids = prefix.prompt(list(range(300, 600)), 4, 0, 0)
    assert prefix.first_token(engine, ids)[1] == 0
    assert prefix.first_token(engine, ids)[1] == 303
    engine.close()
    prefix.drop(tmp_path)
    seconds, cached = prefix.from_disk(model, tmp_path, 300, 4, 7)
    assert seconds > 0 and cached == 0  # other ids
    monkeypatch.setattr(prefix, "prompt", lambda *_: ids)
    assert prefix.from_disk(model, tmp_path, 300, 4, 0)[1] == 256
    monkeypatch.setattr(prefix, "random_ids", lambda count, seed: ids[:count])
    parts = prefix.parts(model, tmp_path, 256, 1)
    assert len(parts) == 6 and all(min(times) > 0 for times in parts.values())


def test_adapters_are_measured_beside_none(
    scripts: dict[str, ModuleType], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["adapters"]
    monkeypatch.setattr(script, "random_ids", lambda count, seed: [300 + i % 300 for i in range(count)])
    engine = script.Adapted(model, 1, 4096)
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


def test_a_result_says_where_it_comes_from(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    model = tmp_path / "m.gguf"
    model.write_bytes(b"abc")
    path = results.write_result("speed", [{"what": "x", "value": spread([3, 1, 2])}], models=[model])
    written = json.loads(path.read_text())
    assert path.parent == tmp_path
    assert written["rows"] == [{"what": "x", "value": {"median": 2, "low": 1, "high": 3}}]
    assert len(written["commit"].removesuffix("-dirty")) == 40
    assert written["files"]["m.gguf"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert {"gemlet", "numpy", "python"} <= set(written["versions"])
    assert written["machine"]["threads"] >= 1


def test_a_table_is_filled_from_the_newest_result(
    results: ModuleType, tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    rows = [{"what": "decode", "gemlet": spread([2.0, 1.0, 3.0]), "of the limit": None}]
    path = results.write_result("speed-1b-qat", rows, models=[])
    text = "<!-- table: speed-1b-qat -->\nold\n<!-- end -->\n"
    filled = tables.fill(text, tmp_path)
    assert "| decode | 2 (1 to 3) |  |" in filled and path.name in filled and "old" not in filled
    assert tables.fill(filled, tmp_path) == filled
    unknown = "<!-- table: speed-other -->\n<!-- end -->\n"
    assert "not measured yet: `make bench`" in tables.fill(unknown, tmp_path)
