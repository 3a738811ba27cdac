"""What is to be checked, opened leniently: a file that a loader refuses can still be described."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemlet.errors import ModelFileError, ModelNotFoundError
from gemlet.formats.files import map_file, read_json
from gemlet.formats.gguf import GgufFile, read_gguf
from gemlet.formats.safetensors import read_safetensors
from gemlet.formats.tensors import Tensor
from gemlet.model import adapters, folder_source
from gemlet.provenance.manifest import Derivation, read_manifest

MAX_CARD_BYTES = 1 << 20
MAX_GGUF_FILES = 1 << 8


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Hugging Face folder: its JSON files, an absent one empty; tensors under their own names."""

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    template: str | None
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A PEFT folder: its configuration and its tensors. `base_sha256`: of the weights it was trained on."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    base_sha256: str | None


@dataclass(frozen=True, eq=False)
class Subject:
    """What a path leads to. `card` is the text of the README beside the weights, None without one."""

    path: Path
    kind: Literal["file", "folder"]
    ggufs: tuple[GgufFile, ...]
    checkpoint: Checkpoint | None
    adapter: Adapter | None
    card: str | None
    manifest: Derivation | None

    @property
    def folder(self) -> Path:
        return self.path if self.kind == "folder" else self.path.parent

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold weights."""
        files = [Path(file.path) for file in self.ggufs]
        if self.checkpoint is not None:
            files += folder_source.weight_files(self.path)
        if self.adapter is not None:
            files.append(self.path / adapters.WEIGHTS)
        return files

    @property
    def repository(self) -> str | None:
        """The repository of a file in the Hugging Face cache."""
        for part in self.path.parts:
            if match := re.fullmatch(r"models--([^/]+?)--([^/]+)", part):
                return f"{match[1]}/{match[2]}"
        return None

    @property
    def revision(self) -> str | None:
        """The commit of a file in the Hugging Face cache."""
        parts = self.path.parts
        at = parts.index("snapshots") + 1 if "snapshots" in parts else len(parts)
        return parts[at] if at < len(parts) else None


def open_subject(path: str | Path) -> Subject:
    """Open a file or folder. ModelNotFoundError where nothing is, ModelFileError for what is no model."""
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise ModelNotFoundError(f"{path}: there is no such file or folder")
    if path.suffix == ".safetensors":
        hint = f"check its folder: gemlet check {path.parent}"
        raise ModelFileError(path, "file", "is a part of a checkpoint", hint=hint)
    in_cache = "snapshots" in path.parts
    card = _card(path.parent) if in_cache else None
    return Subject(path, "file", (_gguf(path),), None, None, card, read_manifest(path))


def _gguf(path: Path) -> GgufFile:
    file = read_gguf(path)
    if not file.tensors:
        raise ModelFileError(path, "tensor count", "is 0: there is no model in it")
    return file


def _folder(path: Path) -> Subject:
    files = sorted(file for file in path.glob("*.gguf") if file.is_file())
    if len(files) > MAX_GGUF_FILES:
        raise ModelFileError(path, "folder", f"holds more than {MAX_GGUF_FILES} GGUF files")
    has_adapter = (path / adapters.CONFIG).exists()
    has_checkpoint = (path / folder_source.CONFIG).exists() and not has_adapter
    if not files and not has_adapter and not has_checkpoint:
        hint = "a model is a GGUF file, or a folder with *.gguf, config.json or adapter_config.json"
        raise ModelFileError(path, "folder", "holds no model", hint=hint)
    manifest = read_manifest(path)
    if manifest is None and len(files) == 1 and not (has_adapter or has_checkpoint):
        manifest = read_manifest(files[0])
    return Subject(
        path,
        "folder",
        tuple(_gguf(file) for file in files),
        _checkpoint(path) if has_checkpoint else None,
        _adapter(path) if has_adapter else None,
        _card(path),
        manifest,
    )


def _checkpoint(path: Path) -> Checkpoint:
    names = (folder_source.CONFIG, folder_source.GENERATION, folder_source.TOKENIZER_CONFIG)
    config, generation, tokenizer = (
        read_json(path / name) if (path / name).exists() else {} for name in names
    )
    tensors = {
        name: tensor
        for shard in folder_source.weight_files(path)
        for name, tensor in read_safetensors(shard)[0].items()
    }
    template = folder_source.read_chat_template(path)
    return Checkpoint(path, config, generation, tokenizer, template, tensors)


def _adapter(path: Path) -> Adapter:
    tensors, _ = read_safetensors(path / adapters.WEIGHTS)
    base = None
    if (path / adapters.MANIFEST).exists():
        base = read_json(path / adapters.MANIFEST).get("base_weights_sha256")
    return Adapter(path, read_json(path / adapters.CONFIG), tensors, base if isinstance(base, str) else None)


def _card(path: Path) -> str | None:
    card = path / folder_source.CARD
    if not card.is_file():
        return None
    return map_file(card, at_least=0)[:MAX_CARD_BYTES].tobytes().decode(errors="replace")
