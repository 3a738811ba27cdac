"""What came of a file that is not whole yet: a file of its own, for one process at a time."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gemlet.errors import DownloadError

PART = ".gemlet.part"
"""What the name of a file ends in that has not come whole."""


def part_of(blob: Path) -> Path:
    """Where what came of a file lies."""
    return blob.with_name(blob.name + PART)


@contextmanager
def alone(part: Path) -> Any:
    """The partial file, for one process at a time."""
    with part.open("r+b" if part.exists() else "w+b") as stream:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "wait for it: it fetches the same file"
                raise DownloadError("another gemlet pull is at work", hint=hint) from None
        yield stream


def emptied(stream: IO[bytes]) -> int:
    """Throw away what is in it; where it begins again."""
    stream.seek(0)
    stream.truncate(0)
    return 0
