"""Files as bytes: mapped for reading, replaced whole when written; and JSON files with limits."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ModelFileError

MAX_JSON_BYTES = 1 << 24
_STEP = 1 << 24


def map_file(path: str | Path, at_least: int = 1) -> NDArray[np.uint8]:
    """The bytes of a regular file, uint8, read-only; nothing is read before it is looked at.

    Raises ModelFileError when it is missing, no regular file, or shorter than `at_least` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise ModelFileError(path, "file", error.strerror or "cannot be opened") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(path, "file", "is not a regular file")
        if status.st_size < at_least:
            raise ModelFileError(path, "file", f"has {status.st_size} bytes, too few to be a model file")
        if not status.st_size:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(handle)


def release_pages(array: NDArray[Any]) -> None:
    """Let go of the memory of the whole mapped file that an array is a part of: a use reads it again."""
    part: Any = array
    while isinstance(part, (np.ndarray, memoryview)):
        part = part.base if isinstance(part, np.ndarray) else part.obj
    if isinstance(part, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        part.madvise(mmap.MADV_DONTNEED)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, hexadecimal. Raises ModelFileError for what cannot be mapped."""
    digest, data = hashlib.sha256(), map_file(path, at_least=0)
    for start in range(0, len(data), _STEP):
        digest.update(data[start : start + _STEP].data)
    return digest.hexdigest()


@contextmanager
def replaced_file(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` at the end, whole and on disk, or never.

    Without `durable` nothing waits for the disk: after a crash of the machine the file may be torn.
    Processes that write the same path at once do not meet: each has a file of its own, the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises ModelFileError, also when the file is too large."""
    data = map_file(path, at_least=2)
    if len(data) > MAX_JSON_BYTES:
        raise ModelFileError(path, "file", f"is larger than {MAX_JSON_BYTES} bytes")
    return parse_json(path, "file", data.tobytes())


def parse_json(path: str | Path, field: str, text: bytes) -> dict[str, Any]:
    """An object from strict JSON: UTF-8, no repeated keys, no NaN. Raises ModelFileError."""

    def fail(problem: str) -> NoReturn:
        raise ModelFileError(path, field, problem)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            fail(f"has the key {twice!r} twice")
        return result

    def constant(name: str) -> NoReturn:
        fail(f"holds {name}, which is not JSON")

    try:
        value = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        fail("is nested too deeply")
    except ValueError as error:  # also bad UTF-8, and numbers with thousands of digits
        fail(f"is not valid JSON ({str(error)[:100]})")
    if not isinstance(value, dict):
        fail("is not a JSON object")
    return value
