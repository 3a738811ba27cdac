"""The scripts beside the results write what a table needs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gemlet.evaluate.record import spread
from tests.repo.sources import ROOT


@pytest.fixture
def results() -> Iterator[ModuleType]:
    """benchmarks/results_file.py, imported as the scripts import it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("results_file")
        sys.modules.pop("results_file")


@pytest.fixture
def tables() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("readme_tables")
        sys.modules.pop("readme_tables")


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
