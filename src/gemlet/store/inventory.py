"""What lies on this machine: downloads in the Hugging Face cache, and what gemlet made of models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gemlet.errors import GemletError
from gemlet.formats.safetensors import read_arrays
from gemlet.store.embedded import NAME as EMBEDDED_FILE
from gemlet.store.hub import WRONG
from gemlet.store.hub_cache import check_complete, hub_cache_dir
from gemlet.store.partial import PART
from gemlet.store.references import EMBEDDED, NAMES
from gemlet.store.settings import cache_dir

PARTIAL = "partial"
"""The kind of what is a part of a download alone."""

_NAMES = {repository: name for name, repository in NAMES.items()}


@dataclass(frozen=True)
class PackedFile:
    """Weights in the kernels' layout, or the sketch of a head. `source`: the model's path."""

    path: Path
    source: str
    nbytes: int
    used: float


@dataclass(frozen=True)
class Entry:
    """A model on this machine. Sizes in bytes, `used` in Unix time, None where nothing was made of it yet.

    reference: what names it. path: the GGUF file or the checkpoint's folder. revision: the commit, None for
    what no hub knows. kind: "gguf", "safetensors", or PARTIAL with the repository's folder as the path.
    """

    reference: str
    path: Path
    kind: str
    revision: str | None
    nbytes: int
    packed: tuple[PackedFile, ...] = ()
    complete: bool = True
    names: tuple[str, ...] = ()

    @property
    def packed_bytes(self) -> int:
        return sum(file.nbytes for file in self.packed)

    @property
    def used(self) -> float | None:
        return max((file.used for file in self.packed), default=None)


def entries(environ: Mapping[str, str] = os.environ) -> list[Entry]:
    """Every model: those of the Hugging Face cache that gemlet can open, the embedded one, and files that
    weights were packed from, wherever they are.
    """
    packed: dict[str, list[PackedFile]] = {}
    for file in packed_files(environ):
        packed.setdefault(file.source, []).append(file)
    found = []
    for entry in (*_downloads(environ), *_embedded(environ)):
        own = packed.pop(str(entry.path), []) + packed.pop(str(entry.path.resolve()), [])
        found.append(replace(entry, packed=tuple(own)))
    for source, files in packed.items():
        path = Path(source)
        if path.exists():
            kind = "safetensors" if path.is_dir() else "gguf"
            found.append(Entry(source, path, kind, None, _size(path), tuple(files)))
    return sorted(found, key=lambda entry: entry.reference)


def orphans(environ: Mapping[str, str] = os.environ) -> list[PackedFile]:
    """Packed weights of models that are gone."""
    return [file for file in packed_files(environ) if not Path(file.source).exists()]


def packed_files(environ: Mapping[str, str] = os.environ) -> list[PackedFile]:
    """All packed weights, each with the sketch of its head behind it."""
    found: list[PackedFile] = []
    for path in sorted((cache_dir(environ) / "packed").glob("*.safetensors")):
        try:
            _, metadata = read_arrays(path)
            source = metadata["source"]
        except (GemletError, OSError, KeyError):
            source = ""  # written by another version: nothing reads it any more
        for file in (path, path.with_suffix(".head")):
            with suppress(OSError):
                state = file.stat()
                found.append(PackedFile(file, source, state.st_size, max(state.st_atime, state.st_mtime)))
    return found


def cache_parts(environ: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Bytes of each folder of gemlet's cache."""
    root = cache_dir(environ)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {path.name: _size(path) for path in folders if path.name != "servers"}


def _downloads(environ: Mapping[str, str]) -> Iterator[Entry]:
    root = hub_cache_dir(environ)
    if not root.is_dir():
        return
    for folder in sorted(root.glob("models--*--*")):
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        main = _text(folder / "refs" / "main")
        if parts := partial_files(folder):
            size = sum(path.stat().st_size for path in parts)
            wrong = any(path.suffix == WRONG for path in parts)
            name = f"{repository} ({'a wrong file' if wrong else 'a part'})"
            yield Entry(name, folder, PARTIAL, None, size, (), False, (repository,))
        for snapshot in sorted((folder / "snapshots").glob("*")):
            at = "" if snapshot.name == main or main is None else f"@{snapshot.name[:12]}"
            names = (_NAMES[repository],) if repository in _NAMES and not at else ()
            is_checkpoint = (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors*"))
            if is_checkpoint:
                whole = _is_complete(snapshot, repository)
                yield Entry(
                    repository + at, snapshot, "safetensors", snapshot.name, _size(snapshot), (), whole, names
                )
            files = sorted(path for path in snapshot.rglob("*.gguf"))
            for path in files:
                alone = len(files) == 1 and not is_checkpoint
                file = "" if alone else f":{path.relative_to(snapshot)}"
                size = path.stat().st_size if path.exists() else 0
                yield Entry(
                    repository + file + at, path, "gguf", snapshot.name, size, (), path.exists(), names
                )


def partial_files(folder: Path) -> list[Path]:
    """What came of files of a repository that are not whole, and what was set aside as wrong."""
    blobs = folder / "blobs"
    return sorted((*blobs.glob(f"*{PART}"), *blobs.glob(f"*{WRONG}")))


def _is_complete(snapshot: Path, repository: str) -> bool:
    try:
        check_complete(snapshot, repository)
    except GemletError:
        return False
    return all(path.exists() for path in snapshot.rglob("*"))


def _embedded(environ: Mapping[str, str]) -> Iterator[Entry]:
    path = cache_dir(environ) / "models" / EMBEDDED_FILE
    if path.is_file():
        yield Entry(EMBEDDED, path, "gguf", None, path.stat().st_size)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder, links followed."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _text(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return None
