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
        names = ("results_file", "engines", "speed", "memory", "start", "prefix")
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
