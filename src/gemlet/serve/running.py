"""The requests that are being answered, and what ends one before its answer is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from gemlet.serve.errors import RETRY_AFTER, ApiError

CLIENT_GONE = 499
"""Logged and counted for a request whose client did not wait; nobody receives it."""


class Current:
    """One request. `end` is set to the error that cuts it; `outcome` is the status that it would have had,
    where the status was sent before. What it holds is let go of at its end.
    """

    def __init__(self) -> None:
        self.end: asyncio.Future[ApiError] = asyncio.get_running_loop().create_future()
        self.outcome: int | None = None
        self.leaving = ExitStack()

    def cut(self, error: ApiError) -> None:
        """End the request with an error, unless something else ended it before."""
        if not self.end.done():
            self.end.set_result(error)


_current: ContextVar[Current | None] = ContextVar("current", default=None)


class Running:
    """The requests of one server. For its event loop only. `deadline`: seconds that each may take."""

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._requests: set[Current] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def request(self) -> Iterator[Current]:
        """A request, from now to the end of its answer. ApiError 503 when the server is ending."""
        if self._closing:
            raise _ending("the server is ending, ask again later")
        current = Current()
        token = _current.set(current)
        self._requests.add(current)
        timer = None
        if self._deadline is not None:
            late = _late(self._deadline)
            timer = asyncio.get_running_loop().call_later(self._deadline, current.cut, late)
        try:
            with current.leaving:
                yield current
        finally:
            if timer is not None:
                timer.cancel()
            self._requests.discard(current)
            _current.reset(token)

    def close(self) -> None:
        """Refuse new requests; those that run go on."""
        self._closing = True

    def cut(self) -> int:
        """End every request that runs with an error; how many there were."""
        for current in self._requests:
            current.cut(_ending("the answer was cut off: the server ended"))
        return len(self._requests)


def end_of_request() -> asyncio.Future[ApiError]:
    """What the request that is being answered must end with, once that is known."""
    current = _current.get()
    return asyncio.get_running_loop().create_future() if current is None else current.end


def set_outcome(status: int) -> None:
    """What came of the request, other than the status that its client was sent."""
    current = _current.get()
    if current is not None:
        current.outcome = status


def at_its_end(call: Callable[[], None]) -> bool:
    """Have `call` called when the request that is being answered has ended; False where there is none."""
    current = _current.get()
    if current is not None:
        current.leaving.callback(call)
    return current is not None


def _ending(message: str) -> ApiError:
    headers = {"Retry-After": str(RETRY_AFTER)}
    return ApiError(503, message, type="server_error", code="server_ending", headers=headers)


def _late(seconds: float) -> ApiError:
    message = f"the answer took longer than the {seconds:g} seconds that this server gives a request"
    # Clients repeat what ends with a 5xx: the same request would take as long again.
    headers = {"x-should-retry": "false"}
    return ApiError(504, message, type="server_error", code="deadline_exceeded", headers=headers)
