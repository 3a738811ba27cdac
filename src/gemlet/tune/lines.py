"""The lines of a JSONL file, read without guessing, and the problems that they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemlet.errors import DataError, ModelFileError
from gemlet.formats.files import parse_json

MAX_LINE_BYTES = 1 << 24
SHOWN = 20
"""Bad lines that an error names; the others are counted."""

_BOM = b"\xef\xbb\xbf"
_CANARY = b"26b5c67b-"
"""How the identifier begins that BIG-bench puts into its files, so that nobody trains on them."""


class Refused(Exception):
    """Why a line cannot be used, and the field that it is about."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{_shown(field)}: {_shown(reason)}")


def _shown(text: str) -> str:
    """Text as a terminal and a JSON document can take it: a file's own field names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Problems:
    """Bad lines, gathered so that one error names many."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, source: str, refused: Refused) -> None:
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{source}: {refused}")

    def raise_any(self) -> None:
        if self.count:
            raise DataError(self._first, count=self.count)


class Lines:
    """A file's lines that are not blank, as (number, bytes). Once read, `sha256` and `size` are the file's.

    Raises DataError where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        digest, number, size = hashlib.sha256(), 0, 0
        try:
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    whole = line
                    while not line.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                        digest.update(line)  # what is too long is not kept: only that it was
                        size += len(line)
                        line = rest
                    digest.update(line)
                    size += len(line)
                    if number == 1:
                        whole = whole.removeprefix(_BOM)
                    if whole.strip():
                        yield number, whole
        except OSError as error:
            raise DataError([f"{self.path}: cannot be read: {error.strerror or error}"]) from None
        self.size, self.sha256 = size, digest.hexdigest()


def parse_line(line: bytes) -> dict[str, Any]:
    """The object that a line holds. Raises Refused; also for keys that come twice, and NaN."""
    if len(line) > MAX_LINE_BYTES:
        raise Refused("line", f"is longer than {MAX_LINE_BYTES} bytes")
    if _CANARY in line.lower():
        reason = "holds the canary of BIG-bench: it is part of a test set, which must not be trained on"
        raise Refused("line", reason)
    try:
        return parse_json("", "line", line)
    except ModelFileError as error:
        raise Refused("line", error.problem) from None
