"""uvicorn's server, which at its end lets running answers finish and tells those that it cuts."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from gemlet.serve.events import LAST_WORD
from gemlet.serve.guard import Guard

MARGIN = 5.0
"""Seconds after the last word in which what still holds a connection is ended without one."""

LOOK = 0.05


class Server(uvicorn.Server):
    """Serves an application until a signal comes; a second one cuts what still runs.

    `seconds`: how long answers may run after the first signal. `tell` gets lines for the person. `cut` is how
    many answers were ended before they were whole.
    """

    def __init__(
        self,
        app: Guard,
        seconds: float,
        tell: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> None:
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=round(seconds + MARGIN), **options))
        self.cut = 0
        self._running = app.running
        self._seconds = seconds
        self._tell = tell
        self._hurry = False

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Unlike uvicorn's it does not raise them again: the caller has models to close."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears of them
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, a second one also what it waits for."""
        self._hurry = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._running.close()
        ending = asyncio.ensure_future(self._end_running())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_running(self) -> None:
        """Wait for the answers that run, then cut them, then hang up."""
        if len(self._running):
            what = f"{_requests(len(self._running))} may run for {self._seconds:g} seconds more"
            self._tell(f"ending: {what}; Ctrl-C again cuts them off")
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while len(self._running) and loop.time() < end and not self._hurry:
            await asyncio.sleep(LOOK)
        self.cut = self._running.cut()
        if self.cut:
            self._tell(f"cut off before the end: {_requests(self.cut)}")
        end = loop.time() + LAST_WORD
        while len(self._running) and loop.time() < end:
            await asyncio.sleep(LOOK)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # of a client that does not read, or keeps a request to itself


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
