"""Each test of the command has a cache of its own, where the licence line has been shown already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.replaying import Run


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    (home / "gemlet").mkdir()
    (home / "gemlet" / "terms-gemma").touch()
    return home / "gemlet"


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recorded traffic."""
    from tests.cli.replaying import record_requests

    folder = tmp_path_factory.mktemp("traffic")
    record_requests(folder)
    return folder


@pytest.fixture
def run(
    traffic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """`gemlet replay`, without a key around."""
    from tests.cli.replaying import Run

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Run(traffic, tmp_path / "result.json", capsys)
