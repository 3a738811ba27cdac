"""Whether a model's files are still the ones that were packed, and the hash of their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gemlet.formats.files import file_sha256, map_file

EDGE_BYTES = 1 << 16


def fingerprint(files: Sequence[Path]) -> str:
    """A digest of each file's name, size, time, and first and last 64 KiB: quick, and reads nothing else.

    Raises ModelFileError for a file that cannot be mapped.
    """
    digest = hashlib.sha256()
    for file in files:
        data, status = map_file(file), file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        digest.update(data[:EDGE_BYTES].data)
        digest.update(data[-EDGE_BYTES:].data)
    return digest.hexdigest()


def content_sha256(files: Sequence[Path]) -> str:
    """The sha256 of a single file; of several, that of the lines `sha256sum` prints for them."""
    digests = [file_sha256(file) for file in files]
    if len(files) == 1:
        return digests[0]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
