"""The engine's thread: admits, plans and runs steps, and hands their results to the sequences."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from gemlet.errors import GemletError, ModelClosedError
from gemlet.infer.adapters import Adapting
from gemlet.infer.prefixes import PageJoiner, Prefixes
from gemlet.infer.requests import AnswerRequest, Cancelled, Failed, Request, Sink, Started, adapter_key
from gemlet.infer.sample import Ranking
from gemlet.infer.scheduler import Chunk, Job, Limits, Occupancy, Scheduler
from gemlet.infer.sequences import (
    AnswerSequence,
    Call,
    Logits,
    PromptSequence,
    Row,
    Sequence,
    SharedState,
    waits_for,
)
from gemlet.infer.speculate import Speculator
from gemlet.infer.step_batch import batch_of
from gemlet.ops.batch import Batch, State, StepOutput

WIDE_CHUNK = 64
"""Rows a step takes of a prompt that wants logits of many: one row of logits is a mebibyte."""


class Decoder(Ranking, Adapting, PageJoiner, Protocol):
    """What the engine needs of `model.decoder.Decoder`."""

    @property
    def max_rows(self) -> int: ...
    @property
    def build(self) -> str: ...
    def new_state(self) -> State: ...
    def step(self, batch: Batch) -> StepOutput: ...
    def kv_bytes(self, positions: int) -> int: ...
    def close(self) -> None: ...


class Worker:
    """Owns the decoder and every sequence. `run` is the loop, its other methods are for other threads."""

    def __init__(
        self,
        decoder: Decoder,
        limits: Limits,
        prefixes: Prefixes,
        root: bytes = b"",
        speculator: Speculator | None = None,
        spare_work: Iterator[None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._speculator = speculator
        self._prefixes = prefixes
        self._root = root
        self._changed = threading.Condition()  # guards the scheduler, _calls and what follows
        self._scheduler = Scheduler(limits)
        self._calls: dict[int, Call] = {}
        self._cancelled: list[tuple[int, int | None]] = []
        self._stopping = False
        self._broken: Exception | None = None
        self._ids = itertools.count()
        self._sequences: dict[int, Sequence] = {}  # the thread's own, as what follows
        self._spare_work = spare_work
        self._spare_work_pays = False
        self._unread: dict[int, Started] = {}  # admitted prompts of which no row is computed yet

    def submit(self, request: Request, sink: Sink) -> int:
        """Put a request in line; its id. Raises when the line is full or the loop has ended."""
        price = self._decoder.kv_bytes(request.positions)
        if self._speculator is not None and isinstance(request, AnswerRequest):
            price += self._speculator.kv_bytes(request.positions)
        wide = not isinstance(request, AnswerRequest) and len(request.wanted) > 1
        with self._changed:
            if self._broken is not None:
                raise GemletError(f"the engine has stopped: {self._broken!r}", hint="load the model again")
            if self._stopping:
                raise ModelClosedError("the model is closed", hint="load it again")
            call = Call(next(self._ids), request, price, sink, self._root + adapter_key(request))
            chunk = WIDE_CHUNK if wide else None
            self._scheduler.submit(Job(call.id, request.rows, price, request.priority, chunk))
            self._calls[call.id] = call
            self._changed.notify()
        return call.id

    def cancel(self, id: int, index: int | None = None) -> None:
        """End a request, or one of its choices, before the next step."""
        with self._changed:
            if id in self._calls:
                self._cancelled.append((id, index))
                self._changed.notify()

    def stop(self) -> None:
        """End the loop before the next step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def read(self, id: int) -> int:
        """Rows that the first sequence of a request has read, for a person who waits."""
        sequence = self._sequences.get(id)
        state = None if sequence is None else sequence.state
        return 0 if state is None else state.length

    def occupancy(self) -> Occupancy:
        """What it holds now."""
        with self._changed:
            return self._scheduler.occupancy(self._prefixes.nbytes)

    def run(self) -> None:
        """Run steps until `stop`. Whatever happens, every request gets its last event."""
        try:
            while self._turn():
                pass
        except Exception as error:  # a defect of the loop itself: say so, let nobody wait
            self._broken = error
        finally:
            self._end_everything()
            self._prefixes.close()
            self._decoder.close()
            if self._speculator is not None:
                self._speculator.close()

    def _turn(self) -> bool:
        with self._changed:
            works = self._spare_work is not None and self._spare_work_pays
            while self._scheduler.idle and not (works or self._stopping):
                self._changed.wait()
            if self._stopping:
                return False
            idle = self._scheduler.idle
            cancelled, self._cancelled = self._cancelled, []
        if idle:
            self._work_a_piece()
            return True
        for id, index in cancelled:
            self._cancel(id, index)
        with self._changed:
            admitted = self._scheduler.admit()
        for id in admitted:
            self._start(id)
        held = self._hold()
        failed = self._catch_up(held)
        drafts = self._drafts()
        with self._changed:
            chunks = self._scheduler.plan({sequence.id: len(sequence.draft) for sequence in drafts})
            stuck = not (chunks or admitted or cancelled or failed or self._scheduler.idle)
        if stuck:
            raise AssertionError("requests wait, but the scheduler plans nothing")
        if chunks:
            self._step(chunks)
        return True

    def _work_a_piece(self) -> None:
        """Of the spare work, which only makes answers faster: where it fails, they stay as they are."""
        assert self._spare_work is not None
        try:
            next(self._spare_work)
        except Exception:  # at its end, too
            self._spare_work = None

    def _drafts(self) -> list[AnswerSequence]:
        """The sequences that have been given a draft to check in the next step."""
        if self._speculator is None:
            return []
        with self._changed:
            outlook = self._scheduler.outlook()
        answering = [self._sequences[id] for id in outlook.answering]
        answers = [one for one in answering if isinstance(one, AnswerSequence) and one.request.draft]
        if not answers or outlook.room == 0:
            return []
        drafts = self._speculator.drafts(answers, outlook.beside, outlook.room)
        for sequence in answers:
            sequence.take_draft(drafts.get(sequence.id, ()))
        return [sequence for sequence in answers if sequence.draft]

    def _start(self, id: int) -> None:
        """Give an admitted sequence its state."""
        known = self._sequences.get(id)
        call = self._calls.get(id) if known is None else known.call
        if call is None:
            return  # it failed with a choice that was admitted in the same step
        try:
            sequence = known or self._first_sequence(call)
            if sequence.source is not None:
                sequence.state, sequence.source = sequence.source.take(), None
                return
            at = time.perf_counter()
            found = self._prefixes.find(sequence.place, sequence.ids, call.request.reusable)
            sequence.state = found.state or self._decoder.new_state()
            with self._changed:
                self._scheduler.skip(id, sequence.state.length)
            self._unread[id] = Started(at, sequence.state.length, found.reason)
        except Exception as error:
            self._fail(call, error)

    def _hold(self) -> set[int]:
        """Let prompts without a row wait for others that read the same beginning; which."""
        held: set[int] = set()
        if self._prefixes.off:
            return held
        readers = [s for s in self._sequences.values() if s.in_prompt and s.id not in self._unread]
        for id in self._unread:
            if any(waits_for(self._sequences[id], reader) for reader in readers):
                held.add(id)
            else:
                readers.append(self._sequences[id])
        with self._changed:
            self._scheduler.hold(held)
        return held

    def _catch_up(self, held: set[int]) -> bool:
        """Prompts about to compute their first rows begin behind what others read; whether one failed."""
        failed = False
        for id, started in list(self._unread.items()):
            if id in held:
                continue
            sequence = self._sequences[id]
            cached, most = started.cached_tokens, sequence.call.request.reusable
            try:
                if not self._prefixes.longer(sequence.place, sequence.ids, most, cached):
                    continue
                found = self._prefixes.find(sequence.place, sequence.ids, most)
            except Exception as error:
                self._fail(sequence.call, error)
                failed = True
                continue
            if found.state is not None and found.state.length > cached:
                with self._changed:
                    self._scheduler.skip(id, found.state.length - cached)
                sequence.state = found.state
                self._unread[id] = Started(started.at, found.state.length, None)
        return failed

    def _first_sequence(self, call: Call) -> Sequence:
        request, config = call.request, self._decoder.config
        sequence: Sequence
        if isinstance(request, AnswerRequest):
            sequence = AnswerSequence(call.id, call, request, 0, self._decoder)
        else:
            sequence = PromptSequence(call, request, self._decoder, config.vocab_size, config.hidden_size)
        self._sequences[call.id] = sequence
        return sequence

    def _step(self, chunks: Iterable[Chunk]) -> None:
        began = time.perf_counter()
        running = [(self._sequences[chunk.id], chunk.rows) for chunk in chunks]
        answers = 0
        for sequence, rows in running:
            if isinstance(sequence, AnswerSequence) and not sequence.in_prompt:
                del sequence.draft[rows - 1 :]  # what the scheduler had no room for
                answers += rows
        spans = [(sequence, _length(sequence), rows) for sequence, rows in running]
        wanted = [sequence.wanted(start, rows) for sequence, start, rows in spans]
        for sequence, _ in running:
            if (started := self._unread.pop(sequence.id, None)) is not None:
                sequence.call.emit(started)
        try:
            batch = batch_of(spans, wanted)
            self._spare_work_pays |= batch.top > 0
            output = self._decoder.step(batch)
        except Exception as error:
            for call in {id(s.call): s.call for s, _, _ in spans}.values():
                self._fail(call, error)
            return
        logits, hidden = iter(output.rows), iter(output.hidden)
        for (sequence, _, _), (logit_positions, hidden_positions) in zip(spans, wanted, strict=True):
            of_logits = {position: next(logits) for position in logit_positions}
            of_hidden = {position: next(hidden) for position in hidden_positions}
            if sequence.id not in self._sequences:
                continue  # another choice of the same request failed in this step
            try:
                self._receive(sequence, of_logits, of_hidden)
                if sequence.state is not None:
                    self._prefixes.register(sequence.place, sequence.ids, sequence.state)
            except Exception as error:
                self._fail(sequence.call, error)
            if sequence.call.deaf:
                self._cancel(sequence.call.id, None)
        if self._speculator is not None:
            beside = sum(rows for _, rows in running) - answers
            self._speculator.measured(answers, beside, time.perf_counter() - began)

    def _receive(self, sequence: Sequence, logits: dict[int, Logits], hidden: dict[int, Row]) -> None:
        if isinstance(sequence, PromptSequence):
            finished = _length(sequence) == len(sequence.ids)
            sequence.read(logits, hidden, finished)
            if finished:
                self._end(sequence)
        elif logits:
            if sequence.in_prompt:
                (row,) = logits.values()
                self._begin_answers(sequence, row)
            elif sequence.verify(logits.values()):
                self._more(sequence)
            else:
                self._end(sequence)

    def _begin_answers(self, first: AnswerSequence, row: Logits) -> None:
        """The prompt is read: every choice takes its first token from one row, and a copy of the state."""
        call, request, state = first.call, first.request, first.state
        assert state is not None
        choices = [
            first if i == 0 else AnswerSequence(next(self._ids), call, request, i, self._decoder)
            for i in sorted(call.open)
        ]
        going = []
        for choice in choices:
            if choice.answer(row):
                going.append(choice)
            else:
                call.end(choice.index)
        if going and going != [first]:
            shared = SharedState(state, len(going))
            first.state = shared.take() if first in going else None
            for choice in going:
                if choice is not first:
                    choice.source = shared
                    self._sequences[choice.id] = choice
                    with self._changed:
                        self._scheduler.follow(Job(choice.id, 1, call.price))
        if first in going:
            self._more(first)
        else:
            self._retire(first)
        self._close_call(call)

    def _more(self, sequence: Sequence) -> None:
        with self._changed:
            self._scheduler.more(sequence.id)

    def _end(self, sequence: Sequence) -> None:
        self._retire(sequence)
        sequence.call.end(sequence.index)
        self._close_call(sequence.call)

    def _retire(self, sequence: Sequence, keep: bool = True) -> None:
        """Take a sequence out; the pages of its state may serve a later prompt."""
        del self._sequences[sequence.id]
        self._unread.pop(sequence.id, None)
        if self._speculator is not None:
            self._speculator.forget(sequence.id)
        with self._changed:
            self._scheduler.remove(sequence.id)
        if sequence.source is not None:
            sequence.source.leave()
        if keep and sequence.state is not None:
            self._prefixes.register(sequence.place, sequence.ids, sequence.state, end=True)
        sequence.state = sequence.source = None

    def _cancel(self, id: int, index: int | None) -> None:
        call = self._calls.get(id)
        if call is None:
            return
        for choice in sorted(call.open) if index is None else [index]:
            call.end(choice, Cancelled(choice))
        for sequence in [s for s in self._sequences.values() if s.call is call]:
            # Before the answers begin, the first choice's sequence reads the prompt for all of them.
            reads_for_others = call.open and isinstance(sequence, AnswerSequence) and sequence.in_prompt
            if sequence.index not in call.open and not reads_for_others:
                self._retire(sequence)
        self._close_call(call)

    def _fail(self, call: Call, error: Exception) -> None:
        """End a whole request with an error. Its states may be half-way through a step: they are not kept."""
        for sequence in [s for s in self._sequences.values() if s.call is call]:
            self._retire(sequence, keep=False)
        call.open.clear()
        call.emit(Failed(error))
        self._close_call(call)

    def _close_call(self, call: Call) -> None:
        if not call.open:
            with self._changed:
                self._scheduler.remove(call.id)
                self._calls.pop(call.id, None)

    def _end_everything(self) -> None:
        with self._changed:
            self._stopping = True
            calls = list(self._calls.values())
        for call in calls:
            if self._broken is not None:
                self._fail(call, self._broken)
            else:
                self._cancel(call.id, None)


def _length(sequence: Sequence) -> int:
    assert sequence.state is not None
    return sequence.state.length
