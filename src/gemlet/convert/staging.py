"""Files and folders that appear under their name whole and on disk, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gemlet.errors import OutputError

SPARE_BYTES = 1 << 24
"""Left free on the disk beside what is written: names, and what others write meanwhile."""


@contextmanager
def staged(path: Path, needed: int, *, force: bool = False) -> Iterator[Path]:
    """A path beside `path` at which to make a file or a folder; it takes the place of `path` at the end.

    needed: bytes that will be written. Whatever ends the work early, Ctrl-C and a full disk included, leaves
    `path` as it was and nothing beside it. Raises OutputError for a target that exists (unless `force`), for
    a place that cannot be written to, and for want of space.
    """
    check_target(path, needed, force=force)
    stage = path.parent / f".{path.name[:200]}.{secrets.token_hex(4)}.part"
    try:
        yield stage
        for file in [stage] if stage.is_file() else sorted(stage.iterdir()):
            _to_disk(file)
        _take_place(stage, path)
    except OSError as error:
        raise _as_output_error(path, error) from error
    finally:
        _remove(stage)


def check_target(path: Path, needed: int, *, force: bool = False) -> None:
    """Raise OutputError where `needed` bytes cannot be written at this path."""
    folder = path.parent
    if path.name in ("", ".", ".."):
        raise OutputError(f"{path}: is not a name for what is written")
    if not folder.is_dir():
        raise OutputError(f"{folder}: there is no such folder", hint="make it first")
    if path.exists() or path.is_symlink():
        if not force:
            raise OutputError(f"{path}: exists already", hint="--force replaces it, another -o keeps it")
        if path.is_dir() and not _is_checkpoint(path):
            hint = "only a folder that holds a checkpoint and nothing else is replaced: choose another -o"
            raise OutputError(f"{path}: is a folder with other things in it", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: may not be written to")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _as_output_error(path, error) from error
    if free < needed + SPARE_BYTES:
        text = f"{path}: needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free on that disk"
        raise OutputError(text, hint="free some space, or choose another disk with -o")


_OURS = (".safetensors", ".json", ".model", ".jinja", ".md", ".txt")
_NAMES = {"LICENSE", "NOTICE", "Notice", "MODIFICATIONS", "PROHIBITED_USE_POLICY"}


def _is_checkpoint(folder: Path) -> bool:
    """Whether an export may have written the whole folder: nothing else is ever removed."""
    entries = list(folder.iterdir())
    plain = all(
        entry.is_file() and not entry.is_symlink() and (entry.suffix in _OURS or entry.name in _NAMES)
        for entry in entries
    )
    marks = {"config.json", "adapter_config.json"}
    return plain and (not entries or bool(marks & {entry.name for entry in entries}))


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _take_place(stage: Path, path: Path) -> None:
    if not (stage.is_dir() and path.is_dir()):
        os.replace(stage, path)
        return
    old = stage.with_suffix(".old")
    os.replace(path, old)
    try:
        os.replace(stage, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(stage: Path) -> None:
    if stage.is_dir() and not stage.is_symlink():
        shutil.rmtree(stage, ignore_errors=True)
    else:
        with suppress(OSError):
            stage.unlink()


def _as_output_error(path: Path, error: OSError) -> OutputError:
    hints = {
        errno.ENOSPC: "the disk is full: free some space, or choose another disk with -o",
        errno.EDQUOT: "your quota is used up: free some space, or choose another disk with -o",
        errno.EROFS: "choose a place that can be written to with -o",
        errno.EACCES: "choose a place that can be written to with -o",
    }
    text = f"{path}: was not written: {error.strerror or error}"
    return OutputError(text, hint=hints.get(error.errno or 0))
