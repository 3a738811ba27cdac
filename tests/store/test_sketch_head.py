"""The setting decides whether a head gets a sketch, and where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemlet.store import load as module


@pytest.mark.parametrize(("setting", "asked"), [("true", 1), ("false", 0)])
def test_a_head_gets_a_sketch_where_the_setting_says_so(
    setting: str, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMLET_HEAD_SKETCH", setting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    kept: list[Path] = []

    def use_sketch(decoder: Any, weights: Any, samples: Any, path: Path) -> Iterator[None]:
        kept.append(path)
        yield

    monkeypatch.setattr(module, "use_sketch", use_sketch)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"x")
    loaded: Any = SimpleNamespace(facts=SimpleNamespace(path=model), weights=None)
    decoder: Any = None
    assert list(module.sketch_head(decoder, loaded)) == [None] * asked
    assert [path.suffix for path in kept] == [".head"] * asked
    assert all(path.is_relative_to(tmp_path / "gemlet") for path in kept)
