"""Each test of the command has a cache of its own, where the licence line has been shown already."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    (home / "gemlet").mkdir()
    (home / "gemlet" / "terms-gemma").touch()
    return home / "gemlet"
