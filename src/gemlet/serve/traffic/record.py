"""Recording: every generation request and its answer appended to a file, beside the serving of them."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gemlet.errors import ConfigError
from gemlet.serve.traffic.records import PATHS, SUFFIX, End, Exchange, Seconds, to_line
from gemlet.serve.traffic.streams import Body, json_object
from gemlet.version import __version__

MAX_WAITING = 64
"""Records that wait for the disk; with more than these the newest is lost, and counted."""

SECONDS_TO_WRITE = 10.0
"""At the end, for what still waits."""

CLIENT_GONE = 499


class TrafficFile:
    """The file of one start of the server. A thread writes it, so that a slow disk stalls no answer.

    Each record is one write at the end of the file. It is in the hands of the system then, and outlives the
    process; only `close` waits for the disk, so that a crash of the machine may take the last seconds. What
    cannot be written is counted in `lost`, and `warn` is told of the first.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        """Make the file, and the folder for its owner alone. Raises ConfigError."""
        self.recorded = 0
        self.lost = 0
        self._warn = warn
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Exchange | None] = queue.Queue(MAX_WAITING)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path, self._handle = _new_file(folder)
        except OSError as error:
            raise ConfigError(f"--record {folder}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._write_all, name="gemlet-record", daemon=True)
        self._thread.start()

    def append(self, exchange: Exchange) -> None:
        """Hand a record over; never waits."""
        try:
            self._waiting.put_nowait(exchange)
        except queue.Full:
            self._lose("the disk does not keep up")

    def close(self) -> None:
        """Write what waits, reach the disk, and close the file; an empty one is removed."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=SECONDS_TO_WRITE)
        self._thread.join(SECONDS_TO_WRITE)
        if self._thread.is_alive():
            self._lose("the disk does not answer")
            return
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._warn(f"{self.path}: the last records may not be on the disk: {error.strerror}")
        with suppress(OSError):
            if os.fstat(self._handle).st_size == 0:
                os.unlink(self.path)
        os.close(self._handle)

    def _write_all(self) -> None:
        while (exchange := self._waiting.get()) is not None:
            try:
                self._write(to_line(exchange))
                self.recorded += 1
            except OSError as error:
                self._lose(error.strerror or str(error))
            except Exception as error:  # a defect, which must not end the thread
                self._lose(type(error).__name__)

    def _write(self, line: bytes) -> None:
        before = os.fstat(self._handle)
        if before.st_nlink == 0:  # what is written now would vanish without a word
            raise OSError(0, "the file was removed")
        try:
            if (written := os.write(self._handle, line)) < len(line):
                raise OSError(0, f"only {written} of {len(line)} bytes could be written")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, before.st_size)  # nobody else writes here: no torn line stays
            raise

    def _lose(self, why: str) -> None:
        with self._lock:
            self.lost += 1
            first = self.lost == 1
        if first:
            self._warn(f"{self.path}: requests are served but not recorded: {why}")


def _new_file(folder: Path) -> tuple[Path, int]:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    for number in range(1, 1000):
        path = folder / (f"traffic-{stamp}{'' if number == 1 else f'-{number}'}{SUFFIX}")
        with suppress(FileExistsError):
            return path, os.open(path, flags, 0o600)
    raise FileExistsError(0, f"{path.name} and all before it exist")


class Recording:
    """Gives `keep` each request to a route of PATHS with its answer, and nothing of headers and addresses."""

    def __init__(self, app: ASGIApp, keep: Callable[[Exchange], None]) -> None:
        self._app = app
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        watch = _Watch(scope["path"])

        async def receiving() -> Message:
            message = await receive()
            watch.received(message)
            return message

        async def sending(message: Message) -> None:
            watch.sending(message)
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            if watch.status:
                self._keep(watch.exchange())


class _Watch:
    """What passes of one request."""

    def __init__(self, path: str) -> None:
        self.status = 0
        self._path = path
        self._time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._began = time.perf_counter()
        self._request = bytearray()
        self._body = Body("")
        self._first_byte: float | None = None
        self._first_token: float | None = None
        self._gone = self._sent_all = self._unreadable = False

    def received(self, message: Message) -> None:
        self._request += message.get("body", b"")
        if message["type"] == "http.disconnect" and not self._sent_all:
            self._gone = True

    def sending(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            types = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self._body = Body(types[0].decode("latin-1") if types else "")
        elif message["type"] == "http.response.body":
            self._feed(message.get("body", b""))
            self._sent_all = not message.get("more_body", False)

    def _feed(self, piece: bytes) -> None:
        since = time.perf_counter() - self._began
        if piece and self._first_byte is None:
            self._first_byte = since
        if self._unreadable:
            return
        try:
            if self._body.feed(piece) and self._first_token is None:
                self._first_token = since
        except Exception:  # whatever is wrong with it, it is on its way to the client
            self._unreadable = True

    def exchange(self) -> Exchange:
        """The record."""
        total = time.perf_counter() - self._began
        request = _object_or_none(lambda: json_object(bytes(self._request)))
        answer = None if self._unreadable else _object_or_none(self._body.result)
        named = [body.get("model") for body in (answer, request) if body]
        return Exchange(
            time=self._time,
            path=self._path,
            model=next((name for name in named if isinstance(name, str)), None),
            gemlet=__version__,
            request=request,
            status=self.status,
            answer=None if self._body.too_large and not self._body.streamed else answer,
            ended=self._end(),
            seconds=Seconds(_rounded(self._first_byte), _rounded(self._first_token), round(total, 6)),
        )

    def _end(self) -> End:
        if self._gone or self.status == CLIENT_GONE:
            return "gone"
        if self._body.too_large:
            return "cut"
        return "whole" if self._sent_all and not self._unreadable and self._body.whole else "broken"


def _object_or_none(read: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return read()
    except Exception:  # the answer is on its way: whatever is wrong with its record must not reach it
        return None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
