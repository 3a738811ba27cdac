"""Server-sent events, and work that ends when the client has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gemlet.errors import GemletError
from gemlet.serve.errors import ApiError, as_api_error
from gemlet.serve.running import CLIENT_GONE, end_of_request, set_outcome

KEEP_ALIVE = 10.0
"""Seconds without an event after which a comment tells proxies and people that the answer is under way."""

LAST_WORD = 1.0
"""Seconds in which a client that is told why its answer ends has to take that."""

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: ClientGone then.

    It is also cancelled when the request must end; its error is then raised.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    end = end_of_request()
    try:
        await _first(task, gone, end)
        if task.done():
            return task.result()
        if end.done():
            raise end.result()
        raise ClientGone
    finally:
        await _end(task)
        await _end(gone)


class EventStream(Response):
    """`data:` lines of what `events` gives, [DONE] at the end; `progress` is told in comments meanwhile.

    An error in mid-stream becomes a last event, and so does what the request must end with. `events` is
    closed when the client goes away, also while it waits for the first token.
    """

    media_type = "text/event-stream"
    end = "data: [DONE]\n\n"

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        progress: Callable[[], tuple[int, int]] | None = None,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._progress = progress
        self._keep_alive = keep_alive

    def event(self, event: dict[str, Any]) -> str:
        """How an event is written."""
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"

    def failure(self, error: Exception) -> str:
        """How an error of the events is."""
        return self.event(as_api_error(error).body)

    def cut(self, error: ApiError) -> str:
        """How it is told what ends the request while there are events to come."""
        return self.failure(error)

    def waiting(self) -> str:
        """What is sent while there is nothing to say."""
        if self._progress is not None:
            done, total = self._progress()
            if done < total:
                return f": prefill {done}/{total}\n\n"
        return ": keep-alive\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writing = asyncio.ensure_future(self._write(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        end = end_of_request()
        try:
            await _first(writing, gone, end)
            if end.done():
                await _first(writing, gone, timeout=LAST_WORD)
            if writing.done():
                writing.result()
            else:
                set_outcome(end.result().status if end.done() else CLIENT_GONE)
        finally:
            await _end(writing)
            await _end(gone)
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    async def _write(self, send: Send) -> None:
        async def write(text: str) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        coming, end = asyncio.ensure_future(anext(self._events)), end_of_request()
        defect: Exception | None = None
        try:
            while True:
                await _first(coming, end, timeout=self._keep_alive)
                if end.done():
                    set_outcome(end.result().status)
                    await write(self.cut(end.result()))
                    break
                if not coming.done():
                    await write(self.waiting())
                    continue
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    break
                except Exception as error:
                    set_outcome(as_api_error(error).status)
                    await write(self.failure(error))
                    defect = None if isinstance(error, (GemletError, ApiError)) else error
                    break
                await write(self.event(event))
                coming = asyncio.ensure_future(anext(self._events))
            if self.end:
                await write(self.end)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if defect is not None:
                raise defect  # for the log
        finally:
            await _end(coming)


class NamedEventStream(EventStream):
    """Events with their type as a name, numbered, and none that says the end."""

    end = ""
    _number = 0

    def event(self, event: dict[str, Any]) -> str:
        self._number += 1
        return f"event: {event['type']}\n{super().event(event)}"

    def failure(self, error: Exception) -> str:
        return ""  # the last of the events has told it

    def cut(self, error: ApiError) -> str:
        told = error.body["error"]
        fields = {name: told[name] for name in ("code", "message", "param")}
        return self.event({"type": "error", "sequence_number": self._number} | fields)


class LineStream(EventStream):
    """A JSON object a line. `idle` is sent while there is nothing to say: the form has no comments."""

    media_type = "application/x-ndjson"
    end = ""

    def __init__(
        self, events: AsyncIterator[dict[str, Any]], idle: dict[str, Any], keep_alive: float = KEEP_ALIVE
    ) -> None:
        super().__init__(events, keep_alive=keep_alive)
        self._idle = idle

    def event(self, event: dict[str, Any]) -> str:
        return json.dumps(event, ensure_ascii=False) + "\n"

    def failure(self, error: Exception) -> str:
        return self.event({"error": str(as_api_error(error))})

    def waiting(self) -> str:
        return self.event(self._idle)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(*awaited: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
