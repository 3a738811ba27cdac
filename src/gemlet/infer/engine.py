"""One engine thread per open model: requests of token ids go in, events of ids and numbers come out."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from gemlet.errors import ContextLengthError, InvalidRequestError, ModelClosedError
from gemlet.infer.cache import PageFiles
from gemlet.infer.prefixes import Prefixes
from gemlet.infer.requests import AnswerRequest, Event, Request, Sink, Watcher
from gemlet.infer.sample import check_sampling, check_seed
from gemlet.infer.scheduler import Limits, Occupancy
from gemlet.infer.speculate import Speculator
from gemlet.infer.worker import Decoder, Worker

PREFIX_BYTES = 256 * 2**20
"""Memory for pages of earlier requests, unless the engine is told otherwise."""

MAX_CHOICES = 128
SECONDS_TO_STOP = 10.0


@dataclass(frozen=True)
class Ticket:
    """A submitted request. It keeps the engine open."""

    engine: Engine
    id: int

    def read(self) -> int:
        """Tokens of the prompt that have been read, and of the first choice's answer."""
        return self.engine._worker.read(self.id)

    def cancel(self, index: int | None = None) -> None:
        """End the request, or one of its choices, within one step. Nothing happens when it has ended."""
        self.engine._cancel(self.id, index)


class Engine:
    """Runs requests on a decoder, many at a time. Safe to use from several threads. Owns the decoder.

    `context`: positions a request may take, the model's by default. `prefix_bytes`: memory for pages of
    earlier requests, 0 for no reuse; a prefix shorter than `shortest_prefix` tokens is computed again.
    `prefix_files`: pages on disk, under keys that begin with `prefix_root`: all that changes a state's bits.
    `speculator`: proposes drafts, and is closed with the decoder; None for no drafts.
    `spare_work` makes greedy answers faster: after the first of them, a piece at a time is done on the
    engine's thread while no request is there.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        context: int | None = None,
        limits: Limits | None = None,
        prefix_bytes: int = PREFIX_BYTES,
        shortest_prefix: int = 16,
        prefix_files: PageFiles | None = None,
        prefix_root: bytes = b"",
        speculator: Speculator | None = None,
        spare_work: Iterator[None] | None = None,
    ) -> None:
        self._decoder = decoder
        self.context = context or decoder.config.context_length
        self._process = os.getpid()
        self._watcher: Watcher | None = None
        limits = limits or Limits(step_rows=decoder.max_rows)
        prefixes = Prefixes(decoder, prefix_bytes, shortest_prefix, prefix_files)
        self._worker = Worker(decoder, limits, prefixes, prefix_root, speculator, spare_work)
        # A daemon, so that a forgotten model does not keep the program from ending. The finalizer stops it
        # when the engine is collected or the interpreter ends: the thread holds the worker, not the engine.
        thread = threading.Thread(target=self._worker.run, name="gemlet-engine", daemon=True)
        thread.start()
        self._finalize = weakref.finalize(self, _stop, self._worker, thread, self._process)

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request; its events go to `sink`, on the engine's thread.

        Raises InvalidRequestError, ContextLengthError with both counts, QueueFullError, ModelClosedError.
        """
        if os.getpid() != self._process:
            hint = "load it again in this process"
            raise ModelClosedError("the model was opened in another process, before a fork", hint=hint)
        self._check(request)
        if self._watcher is not None:
            sink = _both(self._watcher(request), sink)
        return Ticket(self, self._worker.submit(request, sink))

    def watch(self, watcher: Watcher | None) -> None:
        """Have `watcher` see the requests that are submitted from now on, and their events."""
        self._watcher = watcher

    def occupancy(self) -> Occupancy:
        """What it holds now."""
        return self._worker.occupancy()

    def counts(self) -> tuple[int, int]:
        """Sequences that wait and that run now."""
        now = self.occupancy()
        return now.waiting, now.running

    def close(self) -> None:
        """End the thread; what still runs ends as cancelled. Again, or after a fork, it does nothing."""
        self._finalize()

    def _cancel(self, id: int, index: int | None) -> None:
        if os.getpid() == self._process:  # in a forked child the lock may be held for ever
            self._worker.cancel(id, index)

    def _check(self, request: Request) -> None:
        vocab_size = self._decoder.config.vocab_size
        if not request.ids:
            raise InvalidRequestError("the prompt has no tokens")
        if not 0 <= min(request.ids) <= max(request.ids) < vocab_size:
            wrong = next(i for i in request.ids if not 0 <= i < vocab_size)
            raise InvalidRequestError(f"{wrong} is not a token id from 0 to {vocab_size - 1}")
        if isinstance(request, AnswerRequest):
            if request.max_tokens < 1:
                raise InvalidRequestError(f"max_tokens must be at least 1, not {request.max_tokens}")
            if not 1 <= request.n <= MAX_CHOICES:
                raise InvalidRequestError(f"n must be from 1 to {MAX_CHOICES}, not {request.n}")
            check_sampling(request.sampling, vocab_size)
            check_seed(request.seed)
        else:
            _check_positions(request.wanted, len(request.ids))
        if request.positions > self.context:
            raise ContextLengthError(request.positions, self.context, hint=_lengths(request))


def _both(first: Sink, second: Sink) -> Sink:
    def sink(event: Event) -> None:
        first(event)
        second(event)

    return sink


def _lengths(request: Request) -> str | None:
    if not isinstance(request, AnswerRequest):
        return None
    return f"the prompt has {len(request.ids)}, max_tokens adds {request.max_tokens}"


def _check_positions(wanted: frozenset[int], length: int) -> None:
    if not wanted:
        raise InvalidRequestError("no position is asked for")
    if not 0 <= min(wanted) <= max(wanted) < length:
        raise InvalidRequestError(f"positions must be from 0 to {length - 1}")


def _stop(worker: Worker, thread: threading.Thread, process: int) -> None:
    if os.getpid() != process:
        return
    worker.stop()
    if threading.current_thread() is not thread:
        thread.join(SECONDS_TO_STOP)
