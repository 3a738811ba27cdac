"""What `ls` finds and `rm` removes, and the limit of the cache."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

import gemlet
from gemlet.cli.main import main
from gemlet.errors import InvalidRequestError, ModelNotFoundError
from gemlet.store.inventory import cache_parts, entries, orphans, packed_files
from gemlet.store.remove import clear_cache, find, keep_within_limit, remove
from tests.synthetic import tiny_config, write_tiny_gguf, write_tiny_hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def downloaded(tmp_path: Path, repository: str, names: list[str], commit: str = COMMIT) -> Path:
    """A repository in the hub cache's layout, with GGUF files; returns its snapshot."""
    root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (snapshot, root / "blobs", root / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for i, name in enumerate(names):
        blob = root / "blobs" / f"{i}{name}".replace("/", "_")
        if not blob.exists():
            write_tiny_gguf(blob, tiny_config(), np.random.default_rng(i))
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def opened(reference: str) -> None:
    with gemlet.load(reference) as model:
        model.generate([2, 5], max_tokens=1)


def test_downloads_files_and_what_was_made_of_them(tmp_path: Path) -> None:
    downloaded(tmp_path, "google/gemma-3-270m-it", ["model.gguf"])
    write_tiny_gguf(tmp_path / "own.gguf", tiny_config(), np.random.default_rng(5))
    (tmp_path / "hub" / "models--some--dataset-like").mkdir()
    assert [entry.reference for entry in entries()] == ["google/gemma-3-270m-it"]
    opened("gemma-3-270m-it")
    opened(str(tmp_path / "own.gguf"))
    own, hub = sorted(entries(), key=lambda entry: entry.revision or "")
    assert own.reference == str(tmp_path / "own.gguf") and own.revision is None
    assert hub.names == ("gemma-3-270m-it",) and hub.revision == COMMIT and hub.complete
    for entry in (own, hub):
        assert entry.nbytes == entry.path.stat().st_size
        assert entry.packed_bytes == sum(file.path.stat().st_size for file in entry.packed) > 0
        assert entry.used is not None and abs(time.time() - entry.used) < 100
    assert sum(cache_parts().values()) >= own.packed_bytes + hub.packed_bytes


def test_a_model_and_what_was_made_of_it_go_together(tmp_path: Path) -> None:
    snapshot = downloaded(tmp_path, "google/gemma-3-270m-it", ["model.gguf"])
    opened("gemma-3-270m-it")
    entry = find("gemma-3-270m-it")
    assert find("google/gemma-3-270m-it") == find(str(entry.path)) == entry
    freed = remove(entry)
    assert freed == entry.nbytes + entry.packed_bytes
    assert not snapshot.parent.parent.exists() and not packed_files() and entries() == []
    with pytest.raises(ModelNotFoundError):
        find("gemma-3-270m-it")


def test_one_file_of_several_leaves_the_others(tmp_path: Path) -> None:
    snapshot = downloaded(tmp_path, "some/files-GGUF", ["a-Q4_0.gguf", "a-Q8_0.gguf"])
    blob = (snapshot / "a-Q4_0.gguf").resolve()
    assert {entry.reference for entry in entries()} == {
        "some/files-GGUF:a-Q4_0.gguf",
        "some/files-GGUF:a-Q8_0.gguf",
    }
    remove(find("some/files-GGUF:Q4_0"))
    assert not blob.exists() and (snapshot / "a-Q8_0.gguf").exists()
    assert [entry.reference for entry in entries()] == ["some/files-GGUF"]


def test_a_blob_that_another_revision_needs_stays(tmp_path: Path) -> None:
    old = downloaded(tmp_path, "some/model", ["m.gguf"], OTHER)
    new = downloaded(tmp_path, "some/model", ["m.gguf"])
    assert {entry.reference for entry in entries()} == {"some/model", f"some/model@{OTHER[:12]}"}
    remove(find(f"some/model@{OTHER[:12]}"))
    assert not old.exists() and (new / "m.gguf").exists()
    assert (tmp_path / "hub/models--some--model/refs/main").exists()


def test_a_file_of_ones_own_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(5))
    assert main(["rm", str(path), "--yes"]) == ModelNotFoundError.exit_code  # nothing was made of it
    opened(str(path))
    assert main(["rm", str(path), "--yes"]) == 0
    assert path.exists() and not packed_files()


def test_what_is_not_complete_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = downloaded(tmp_path, "some/model", ["m.gguf"])
    (snapshot / "m.gguf").resolve().unlink()
    (entry,) = entries()
    assert not entry.complete
    assert main(["ls"]) == 0
    assert "some/model, not complete" in capsys.readouterr().out
    remove(entry)
    assert entries() == []


def test_the_cache_stays_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.gguf" for name in "abc"]
    for i, path in enumerate(paths):
        write_tiny_gguf(path, tiny_config(), np.random.default_rng(i))
        opened(str(path))
        for file in packed_files():
            if file.source == str(path):
                os.utime(file.path, (1e9 + i, 1e9 + i))
    size = packed_files()[0].nbytes
    monkeypatch.setattr("gemlet.store.remove._IN_USE", set())  # as in another process
    monkeypatch.setenv("GEMLET_CACHE_LIMIT", str(sum(cache_parts().values()) - 1))
    assert [path.stem[:1] for path in keep_within_limit()] == ["a"]
    assert keep_within_limit() == []
    assert {Path(file.source).stem for file in packed_files()} == {"b", "c"}
    # What this process has opened stays, whatever the limit.
    monkeypatch.setenv("GEMLET_CACHE_LIMIT", "1")
    opened(str(paths[1]))
    opened(str(paths[2]))
    assert {Path(file.source).stem for file in packed_files()} == {"b", "c"}
    assert all(time.time() - file.used < 100 for file in packed_files()) and size > 0


def test_orphans_and_clearing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(5))
    opened(str(path))
    path.unlink()
    assert [file.source for file in orphans()] == [str(path)] and entries() == []
    assert main(["ls"]) == 0
    assert "of models that are gone" in capsys.readouterr().out
    parts = cache_parts()
    assert main(["rm", "--cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "removed": list(parts),
        "freed_bytes": sum(parts.values()),
    }
    assert cache_parts() == {} and clear_cache() == 0
    assert main(["rm", "--cache"]) == 0
    assert "nothing was removed" in capsys.readouterr().out


@pytest.mark.parametrize("reference", ["some/q:Q4_0", "some/q:m-Q4_0.gguf", "some/q:Q4_0+adapter"])
def test_a_model_that_is_served_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    downloaded(tmp_path, "some/q", ["m-Q4_0.gguf", "m-Q8_0.gguf"])
    served = {"address": "http://127.0.0.1:1", "models": [], "references": [reference]}
    monkeypatch.setattr("gemlet.cli.ps.running", lambda: [served])
    assert main(["rm", "some/q:Q4_0", "--yes"]) == 1
    assert len(entries()) == 2
    assert main(["rm", "some/q:Q8_0", "--yes"]) == 0
    assert [entry.path.name for entry in entries()] == ["m-Q4_0.gguf"]


def test_a_checkpoint_and_a_file_beside_it_go_apart(tmp_path: Path) -> None:
    snapshot = downloaded(tmp_path, "some/both", ["m.gguf"])
    write_tiny_hf(snapshot, tiny_config(), np.random.default_rng(3))
    assert {entry.reference: entry.kind for entry in entries()} == {
        "some/both": "safetensors",
        "some/both:m.gguf": "gguf",
    }
    remove(find("some/both:m.gguf"))
    assert (snapshot / "model.safetensors").exists() and not (snapshot / "m.gguf").exists()
    (entry,) = entries()
    remove(entry)
    assert entries() == [] and not snapshot.exists()


def test_a_checkpoint_leaves_the_file_beside_it(tmp_path: Path) -> None:
    snapshot = downloaded(tmp_path, "some/both", ["m.gguf"])
    write_tiny_hf(snapshot, tiny_config(), np.random.default_rng(3))
    remove(find("some/both"))
    assert (snapshot / "m.gguf").exists() and not (snapshot / "config.json").exists()


def test_a_checkpoint_without_a_shard_is_not_complete(tmp_path: Path) -> None:
    snapshot = downloaded(tmp_path, "some/shards", [])
    write_tiny_hf(snapshot, tiny_config(), np.random.default_rng(3), shards=2)
    assert [entry.complete for entry in entries()] == [True]
    next(snapshot.glob("model-00002*")).unlink()
    assert [entry.complete for entry in entries()] == [False]


def test_a_part_of_a_download_is_listed_and_removed(tmp_path: Path) -> None:
    blobs = tmp_path / "hub/models--some--model/blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.gemlet.part").write_bytes(b"x" * 1000)
    (entry,) = entries()
    assert (entry.kind, entry.nbytes, entry.complete) == ("partial", 1000, False)
    assert main(["rm", "some/model", "--yes"]) == 0
    assert entries() == [] and not blobs.exists()


@pytest.mark.parametrize("arguments", [[], ["x", "--cache"]])
def test_rm_wants_one_thing(arguments: list[str]) -> None:
    assert main(["rm", *arguments]) == InvalidRequestError.exit_code


def test_a_start_looks_at_the_cache_only_where_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr("gemlet.store.load.keep_within_limit", lambda: looked.append(1))
    path = tmp_path / "own.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(5))
    opened(str(path))
    opened(str(path))
    assert looked == [1]
