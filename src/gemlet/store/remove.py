"""Taking models off this machine, with all that gemlet made of them; and the cache's limit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from gemlet.errors import ModelNotFoundError, OutputError
from gemlet.store.hub_cache import expanded, hub_cache_dir
from gemlet.store.inventory import (
    PARTIAL,
    Entry,
    PackedFile,
    cache_parts,
    entries,
    packed_files,
    partial_files,
)
from gemlet.store.references import EMBEDDED, parse_reference, resolve
from gemlet.store.settings import cache_dir, read_settings

_IN_USE: set[str] = set()
"""Stems of the packed weights that this process has opened."""


def find(reference: str, environ: Mapping[str, str] = os.environ) -> Entry:
    """The entry that a reference names. ModelNotFoundError where it is not on this machine."""
    known = entries(environ)
    for entry in known:
        if reference in (entry.reference, *entry.names):
            return entry
    if reference != EMBEDDED:
        parsed = parse_reference(reference)
        path = (
            expanded(parsed.target) if parsed.kind == "path" else resolve(reference, environ).path
        ).resolve()
        for entry in known:
            if entry.path.resolve() == path:
                return entry
    raise ModelNotFoundError(f"{reference}: gemlet has nothing of it", hint="gemlet ls lists what is here")


def is_download(entry: Entry, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether its file is gemlet's or the hub cache's to remove, not a file of the person's own."""
    roots = hub_cache_dir(environ).resolve(), cache_dir(environ).resolve()
    return entry.revision is not None or any(root in entry.path.resolve().parents for root in roots)


def remove(entry: Entry, environ: Mapping[str, str] = os.environ) -> int:
    """Remove a model and what was made of it; the bytes that were freed. A person's own file stays.

    OutputError where something cannot be removed.
    """
    freed = 0
    try:
        for packed in entry.packed:
            freed += packed.nbytes
            packed.path.unlink(missing_ok=True)
        if is_download(entry, environ):
            freed += entry.nbytes
            _remove_download(entry)
    except OSError as error:
        raise OutputError(f"{error.filename or entry.path}: cannot be removed: {error.strerror}") from error
    return freed


def clear_cache(environ: Mapping[str, str] = os.environ) -> int:
    """Remove all that gemlet can make again; the bytes that were freed. What runs keeps what it has."""
    freed = 0
    for name, nbytes in cache_parts(environ).items():
        try:
            shutil.rmtree(cache_dir(environ) / name)
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        freed += nbytes
    return freed


def mark_used(packed: Path) -> None:
    """Packed weights that are in use now: this process keeps them, others take them for the newest."""
    _IN_USE.add(packed.stem)
    with suppress(OSError):
        os.utime(packed)


def keep_within_limit(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Remove packed weights, the longest unused first, until the cache is as small as the settings say.

    What this process uses stays, and so does what cannot be removed: this is called on the way to something
    else, where the cache has grown.
    """
    limit = cast(int, read_settings({}, environ)["cache_limit"].value)
    excess = sum(cache_parts(environ).values()) - limit
    removed: list[Path] = []
    if excess <= 0:
        return removed
    for file in _oldest_first(packed_files(environ)):
        if excess <= 0:
            break
        if file.path.stem in _IN_USE:
            continue
        with suppress(OSError):
            file.path.unlink()
            removed.append(file.path)
            excess -= file.nbytes
    return removed


def _oldest_first(files: list[PackedFile]) -> list[PackedFile]:
    return sorted(files, key=lambda file: file.used)


def _remove_download(entry: Entry) -> None:
    """A model of a snapshot, with the blobs that no other links to; then what is left empty."""
    if entry.kind == PARTIAL:
        for part in partial_files(entry.path):
            part.unlink(missing_ok=True)
        if not any((entry.path / "snapshots").glob("*")):
            shutil.rmtree(entry.path)
        return
    if entry.revision is None:
        entry.path.unlink(missing_ok=True)
        return
    snapshot = next(path for path in (entry.path, *entry.path.parents) if path.parent.name == "snapshots")
    repository = snapshot.parent.parent
    every = [path for path in snapshot.rglob("*") if not path.is_dir()]
    if entry.path == snapshot:
        files = [path for path in every if path.suffix != ".gguf"]
    else:
        others = any(path.suffix in (".gguf", ".safetensors") for path in every if path != entry.path)
        files = [entry.path] if others else every
    blobs = {path.resolve() for path in files if path.is_symlink()}
    for path in files:
        path.unlink(missing_ok=True)
    still = {path.resolve() for path in (repository / "snapshots").rglob("*") if path.is_symlink()}
    for blob in blobs - still:
        if repository.resolve() in blob.parents:
            blob.unlink(missing_ok=True)
    if len(files) < len(every):
        return
    shutil.rmtree(snapshot, ignore_errors=True)
    for reference in (repository / "refs").rglob("*"):
        if reference.is_file() and reference.read_text(encoding="utf-8").strip() == snapshot.name:
            reference.unlink()
    if not any((repository / "snapshots").iterdir()):
        shutil.rmtree(repository)
