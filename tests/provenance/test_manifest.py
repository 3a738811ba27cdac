"""Manifests: written, read strictly, verified, signed."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import GemletError, InvalidRequestError, MissingExtraError, ModelFileError
from gemlet.formats.files import file_sha256
from gemlet.provenance.check.origin import check_manifest
from gemlet.provenance.check.subject import open_subject
from gemlet.provenance.manifest import (
    FOLDER_NAME,
    Input,
    changed_files,
    create_key,
    derive,
    manifest_path,
    read_manifest,
    signature_holds,
    write_manifest,
)
from tests.synthetic import tiny_config, write_tiny_gguf

SOURCE = Input("source", "model.safetensors", "google/gemma-3-1b-it", "dcc83ea", "a" * 64, "gemma")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"weights" * 100)
    return path


def test_a_file_and_its_manifest(weights: Path) -> None:
    made = derive(weights, [SOURCE], changes=["quantised to q4_0"], quantisation="q4_0", licence="gemma")
    assert write_manifest(weights, made) == weights.with_name("small.gguf.manifest.json")
    read = read_manifest(weights)
    assert read == made
    assert read is not None and read.files[0].sha256 == file_sha256(weights)
    assert changed_files(weights, read) == ()
    weights.write_bytes(b"weightz" * 100)
    assert "sha256" in changed_files(weights, read)[0]
    weights.write_bytes(b"short")
    assert "5 bytes, not 700" in changed_files(weights, read)[0]
    weights.unlink()
    assert changed_files(weights, read) == ("small.gguf is missing",)


def test_a_folder_names_every_file_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name in ("config.json", "part/a.bin"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, derive(tmp_path, []))
    write_manifest(tmp_path, derive(tmp_path, []))
    read = read_manifest(tmp_path)
    assert read is not None and [file.name for file in read.files] == ["config.json", "part/a.bin"]
    assert (tmp_path / FOLDER_NAME).is_file() and changed_files(tmp_path, read) == ()


def test_no_manifest_is_none(weights: Path) -> None:
    assert read_manifest(weights) is None


def change(weights: Path, **changes: Any) -> None:
    document = derive(weights, [SOURCE]).document() | changes
    manifest_path(weights).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gemlet_manifest": 2}, "gemlet_manifest"),
        ({"surprise": 1}, "surprise"),
        ({"files": None}, "files"),
        ({"files": [{"name": "../up", "nbytes": 1, "sha256": "a" * 64}]}, "files[0].name"),
        ({"files": [{"name": "a", "nbytes": -1, "sha256": "a" * 64}]}, "files[0].nbytes"),
        ({"files": [{"name": "a", "nbytes": 1, "sha256": "zz"}]}, "files[0].sha256"),
        ({"files": [{"name": "a", "nbytes": 1, "sha256": "a" * 64, "x": 1}]}, "files[0].x"),
        ({"inputs": [{"role": "friend", "name": "a"}]}, "inputs[0].role"),
        ({"inputs": [{"role": "data"}]}, "inputs[0].name"),
        ({"changes": [1]}, "changes"),
        ({"created": "yesterday"}, "created"),
        ({"licence": 3}, "licence"),
        ({"signature": {"algorithm": "hmac", "public_key": "a", "value": "b"}}, "signature.algorithm"),
        ({"signature": []}, "signature"),
    ],
)
def test_a_broken_manifest_names_its_field(weights: Path, changes: dict[str, Any], field: str) -> None:
    change(weights, **changes)
    with pytest.raises(ModelFileError) as caught:
        read_manifest(weights)
    assert caught.value.field == field


def test_a_role_that_is_not_known(weights: Path) -> None:
    with pytest.raises(InvalidRequestError, match="not a role"):
        derive(weights, [Input("friend", "a")])


def test_a_signature_is_verified_by_its_public_key(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = tmp_path / "key.pem"
    public = create_key(key)
    assert key.stat().st_mode & 0o077 == 0
    with pytest.raises(GemletError, match="there is a file already"):
        create_key(key)
    write_manifest(weights, derive(weights, [SOURCE]), key)
    read = read_manifest(weights)
    assert read is not None and read.signature is not None
    assert read.signature.public_key == public and signature_holds(read)
    document = json.loads(manifest_path(weights).read_text())
    document["quantisation"] = "q8_0"
    manifest_path(weights).write_text(json.dumps(document))
    changed = read_manifest(weights)
    assert changed is not None and not signature_holds(changed)
    with pytest.raises(GemletError, match="not a private key"):
        write_manifest(weights, derive(weights, []), weights)


def test_signing_without_its_library(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"gemlet\[sign\]"):
        write_manifest(weights, derive(weights, []), tmp_path / "key.pem")
    assert not manifest_path(weights).exists()


def test_the_manifest_of_a_folders_only_file_is_the_folders(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(0))
    write_manifest(path, derive(path, [SOURCE]))
    subject = open_subject(tmp_path)
    assert subject.manifest == read_manifest(path) and subject.manifest is not None
    assert check_manifest(subject, quick=False)[0] == []
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert [finding.id for finding in check_manifest(subject, quick=False)[0]] == ["manifest-differs"]
    write_tiny_gguf(tmp_path / "other.gguf", tiny_config(), np.random.default_rng(0))
    assert open_subject(tmp_path).manifest is None
