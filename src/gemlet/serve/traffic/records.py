"""The record of a request and its answer: a line of JSON in a file that readers do not trust."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, cast

from gemlet.errors import InvalidRequestError, ModelFileError
from gemlet.formats.files import parse_json

VERSION = 1
"""Of the form of a record. Files exist in the world: a reader of a later one still reads this."""

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate")
"""The routes that generate: what is recorded, and all that is ever sent again."""

ENDS = ("whole", "cut", "gone", "broken")
"""How an answer ended: whole; recorded in part, as it was too large; the client left; it broke off."""

MAX_RECORD = 64 << 20
"""Bytes of a line."""

SUFFIX = ".jsonl"

End = Literal["whole", "cut", "gone", "broken"]


class RecordError(InvalidRequestError):
    """A record that cannot be used. Names the file and the line; says nothing of what is written there."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        hint = "--skip-unreadable replays the others"
        super().__init__(f"{path}:{line}: {problem}", hint=hint)
        self.path = path
        self.line = line
        self.problem = problem


@dataclass(frozen=True)
class Seconds:
    """From the arrival of the request. `first_token` is None where the answer did not come as a stream."""

    first_byte: float | None
    first_token: float | None
    total: float


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    `time`: when it arrived, ISO 8601, UTC. `request`: the body, None where it was no JSON object. `answer`:
    the body, that of a stream put together; None where it was no JSON. `model`: who answered, or was asked.
    """

    time: str
    path: str
    model: str | None
    gemlet: str
    request: dict[str, Any] | None
    status: int
    answer: dict[str, Any] | None
    ended: End
    seconds: Seconds


@dataclass(frozen=True)
class Place:
    """Where a record lies: the file, its line from 1, and its bytes there."""

    path: Path
    line: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"

    def read(self) -> Exchange:
        """The record. Raises RecordError, also when the file has changed."""
        with _opened(self.path) as file:
            file.seek(self.offset)
            return parse_record(self.path, self.line, file.read(self.length))


def to_line(exchange: Exchange) -> bytes:
    """The record as a line. One that would be too long loses its answer and says so."""
    record: dict[str, Any] = {"version": VERSION} | vars(exchange) | {"seconds": vars(exchange.seconds)}
    line = _encoded(record)
    return line if len(line) <= MAX_RECORD else _encoded(record | {"answer": None, "ended": "cut"})


def _encoded(record: Mapping[str, Any]) -> bytes:
    # A lone surrogate, which JSON can write and UTF-8 cannot, becomes JSON's escape for it.
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"


def parse_record(path: Path, number: int, line: bytes) -> Exchange:
    """A line as a record. Raises RecordError."""

    def fail(problem: str) -> NoReturn:
        raise RecordError(path, number, problem)

    try:
        record = parse_json(path, "record", line)
    except ModelFileError as error:
        raise RecordError(path, number, error.problem) from None
    version = record.pop("version", None)
    if type(version) is not int or version != VERSION:
        fail(f"is not a record of version {VERSION}")
    known = {field.name for field in fields(Exchange)}
    if record.keys() != known:
        odd = sorted(record.keys() ^ known)[0][:60]
        fail(f"has no {odd!r}" if odd in known else f"has {odd!r}, which is not known")
    if record["path"] not in PATHS:
        fail("its path is none of those that are recorded")
    if record["ended"] not in ENDS:
        fail(f"its ended is none of {', '.join(ENDS)}")
    if type(record["status"]) is not int or not 100 <= record["status"] < 600:
        fail("its status is not an HTTP status")
    for name in ("time", "gemlet", "model"):
        if not isinstance(record[name], str) and not (name == "model" and record[name] is None):
            fail(f"its {name} is not text")
    for name in ("request", "answer"):
        if not isinstance(record[name], dict) and record[name] is not None:
            fail(f"its {name} is not an object")
    return Exchange(**record | {"seconds": _seconds(record["seconds"], fail)})


def _seconds(value: Any, fail: Any) -> Seconds:
    names = [field.name for field in fields(Seconds)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        fail(f"its seconds do not hold {', '.join(names)}")
    for name, one in value.items():
        missing = one is None and name != "total"
        if not missing and (type(one) not in (int, float) or not 0 <= one < 1e9):
            fail(f"its seconds.{name} is not a duration")
    return Seconds(**value)


def record_files(path: Path) -> list[Path]:
    """The record files of a folder, oldest first, or the one file. Raises InvalidRequestError for none."""
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix == SUFFIX)
    if not found:
        hint = f"gemlet serve --record {path} makes one"
        raise InvalidRequestError(f"{path}: the folder holds no {SUFFIX} file", hint=hint)
    return found


def scan(path: Path) -> Iterator[tuple[Place, Exchange | RecordError]]:
    """Each record of a file with its place; a RecordError stands for a line that is none.

    A last line without its end is what a crash left: it is passed over where it is no record.
    Memory: one line. Raises InvalidRequestError for a file that cannot be read.
    """
    with _opened(path) as file:
        number = offset = 0
        while line := file.readline(MAX_RECORD + 1):
            number += 1
            place = Place(path, number, offset, len(line))
            ended = line.endswith(b"\n")
            found: Exchange | RecordError
            if not ended and len(line) > MAX_RECORD:
                found = RecordError(path, number, f"is longer than {MAX_RECORD} bytes")
                line = _rest_of_line(file)
                ended = True
            else:
                try:
                    found = parse_record(path, number, line)
                except RecordError as error:
                    found = error
            offset = file.tell()
            if ended or isinstance(found, Exchange):
                yield place, found


def _rest_of_line(file: IO[bytes]) -> bytes:
    while (piece := file.readline(1 << 20)) and not piece.endswith(b"\n"):
        pass
    return piece


def _opened(path: Path) -> IO[bytes]:
    """A regular file: not a pipe, which would wait for ever."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidRequestError(f"{path}: is not a regular file")
    return cast("IO[bytes]", os.fdopen(handle, "rb"))
