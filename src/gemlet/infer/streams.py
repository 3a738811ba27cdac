"""Reading an answer as it is written: one iterator for threads, one for event loops. Closing them cancels."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING

from gemlet.infer.answer import Answer, Prepared
from gemlet.infer.engine import Ticket
from gemlet.infer.requests import Event, Sink
from gemlet.types import Completion, TokenEvent

if TYPE_CHECKING:
    import asyncio  # imported where a loop is used: it takes a tenth of the time that a start takes

Submit = Callable[[Prepared, Sink], tuple[Answer, Ticket]]


class AnswerStream:
    """The token events of a request that runs already. `close`, or forgetting it, cancels what still runs.

    `completions` are the choices that have ended.
    """

    def __init__(self, prepared: Prepared, submit: Submit) -> None:
        self._ticket: Ticket | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._answer, self._ticket = submit(prepared, self._events.put)
        self._closed = False

    @property
    def completions(self) -> list[Completion]:
        return self._answer.completions

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> TokenEvent:
        try:
            while not (self._closed or self._answer.finished):
                event = self._answer.take(self._events.get())
                if event is not None:
                    return event
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the request. Does nothing when it has ended."""
        self._closed = True
        if self._ticket is not None and not self._answer.finished:
            self._ticket.cancel()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_ticket", None) is not None:
            self.close()


class AsyncAnswerStream:
    """The same for an event loop: `async for event in model.achat(…, stream=True)`.

    The request is prepared, in a thread, when the first event is asked for. Cancelling the task that reads,
    or `aclose`, cancels the request. `await` gives the stream itself once it runs.
    """

    def __init__(self, prepare: Callable[[], Prepared], submit: Submit) -> None:
        import asyncio

        self._prepare = prepare
        self._submit = submit
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._running: tuple[Answer, Ticket] | None = None
        self._read = 0
        self._closed = False

    @property
    def completions(self) -> list[Completion]:
        return [] if self._running is None else self._running[0].completions

    @property
    def progress(self) -> tuple[int, int]:
        """Tokens of the prompt that have been read, and that it has."""
        if self._running is None:
            return 0, 0
        answer, ticket = self._running
        read = answer.prompt_tokens if answer.begun else min(ticket.read(), answer.prompt_tokens)
        self._read = max(self._read, read)  # a request that has ended has no state to look at
        return self._read, answer.prompt_tokens

    async def start(self) -> AsyncAnswerStream:
        """Submit the request, unless it runs already."""
        import asyncio

        if self._running is None and not self._closed:
            loop, put = asyncio.get_running_loop(), self._events.put_nowait
            prepared = await asyncio.to_thread(self._prepare)

            def sink(event: Event) -> None:  # holds no stream: a forgotten one can be collected, and cancels
                loop.call_soon_threadsafe(put, event)

            if not self._closed:  # in the meantime
                self._running = self._submit(prepared, sink)
        return self

    def __await__(self) -> Generator[object, None, AsyncAnswerStream]:
        return self.start().__await__()

    def __aiter__(self) -> AsyncAnswerStream:
        return self

    async def __anext__(self) -> TokenEvent:
        await self.start()
        try:
            while not self._closed and self._running is not None and not self._running[0].finished:
                event = self._running[0].take(await self._events.get())
                if event is not None:
                    return event
        except BaseException:
            self.close()
            raise
        raise StopAsyncIteration

    def close(self) -> None:
        """End the request. Does nothing when it has ended."""
        self._closed = True
        if self._running is not None and not self._running[0].finished:
            self._running[1].cancel()

    async def aclose(self) -> None:
        """The same, under the name that `contextlib.aclosing` calls."""
        self.close()

    async def __aenter__(self) -> AsyncAnswerStream:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            self.close()
