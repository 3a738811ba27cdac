"""The sequences that run: what each has read, what rows it wants results for, and what it makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.infer.prefixes import Place
from gemlet.infer.requests import AnswerRequest, Event, Outputs, PromptRequest, Request, Sink, Token
from gemlet.infer.sample import Alternatives, Ranking, Sampler, logprob
from gemlet.ops.batch import PAGE, Largest, State

Row = NDArray[np.float32]
Logits = Row | Largest


class Call:
    """A request on its way through the engine, with the choices that have not ended."""

    def __init__(self, id: int, request: Request, price: int, sink: Sink, root: bytes = b"") -> None:
        self.id = id
        self.request = request
        self.price = price
        self.root = root  # what changes the bits of its states besides the ids
        self.open = set(range(request.n if isinstance(request, AnswerRequest) else 1))
        self.deaf = False
        self._sink = sink

    def emit(self, event: Event) -> None:
        """Hand an event on. A receiver that has gone away makes the call deaf: nobody needs its results."""
        if self.deaf:
            return
        try:
            self._sink(event)
        except Exception:
            self.deaf = True

    def end(self, index: int, event: Event | None = None) -> None:
        """A choice has ended, with a last event unless that was emitted already."""
        if index in self.open:
            self.open.discard(index)
            if event is not None:
                self.emit(event)


class SharedState:
    """A state that several choices continue: each takes a copy, the last one the state itself."""

    def __init__(self, state: State, users: int) -> None:
        self._state = state
        self._users = users

    def take(self) -> State:
        self._users -= 1
        return self._state if self._users == 0 else self._state.copy()

    def leave(self) -> None:
        self._users -= 1


class AnswerSequence:
    """One choice of an answer. `ids` grow by every token that has to be read."""

    def __init__(self, id: int, call: Call, request: AnswerRequest, index: int, ranking: Ranking) -> None:
        self.id = id
        self.call = call
        self.request = request
        self.index = index
        self.ids = list(request.ids)
        self.place = Place(call.root, len(request.ids), request.cache)
        self.state: State | None = None
        self.source: SharedState | None = None
        self.draft: list[int] = []  # guesses behind `ids` that the step in flight reads too
        self._drafted = self._accepted = 0
        self._ranking = ranking
        self._sampler = Sampler(
            request.sampling,
            seed=request.seed,
            choice=index,
            prompt_ids=request.ids,
            ranking=ranking,
        )
        self._matcher = None if request.constraint is None else request.constraint.matcher(request.stop_ids)
        self._masked = 0  # rows of the step in flight whose logits are only those of allowed ids
        self._failure: Exception | None = None  # of finding out which these are

    def prepare(self, answers: bool) -> None:
        """Have what the constraint allows worked out in another thread, if the next step `answers`."""
        if answers and self._matcher is not None:
            self._matcher.prepare(self.draft)

    def allowed(self, count: int) -> list[NDArray[np.uint8] | None]:
        """The bits of the ids that each of the next step's `count` rows of logits is chosen among.

        None for all, and where it cannot be told: such a row behind a draft is not used.
        """
        rows: list[NDArray[np.uint8] | None] = []
        if count and self._matcher is not None:
            try:
                rows += [allowed.bits for allowed in self._matcher.ahead()[:count]]
            except Exception as error:  # this request's alone: the others of the step go on
                self._failure = error
        self._masked = len(rows)
        return rows + [None] * (count - len(rows))

    def forced(self, most: int) -> list[int]:
        """Tokens that the constraint leaves no other text for, at most so many; empty without one."""
        return [] if self._matcher is None or most < 1 else self._matcher.forced()[:most]

    def take_draft(self, draft: Iterable[int]) -> None:
        """Guess these tokens, so far as there is room and the constraint allows them."""
        guesses = list(draft)[: self.room]
        self.draft = guesses if self._matcher is None or not guesses else self._matcher.fitting(guesses)

    @property
    def in_prompt(self) -> bool:
        """Whether the prompt is not answered yet."""
        return len(self.ids) == len(self.request.ids)

    @property
    def room(self) -> int:
        """Tokens of a draft that can still be accepted: one more is chosen behind them."""
        return self.request.positions - len(self.ids) - 1

    def tokens(self, start: int, rows: int) -> list[int]:
        """The ids to read at [start, start + rows), a draft's behind the known ones."""
        return self.ids[start : start + rows] + self.draft[: max(0, start + rows - len(self.ids))]

    def wanted(self, start: int, rows: int) -> tuple[list[int], list[int]]:
        """Positions in [start, start + rows) whose logits, and whose hidden states, are needed."""
        return list(range(max(start, len(self.ids) - 1), start + rows)), []

    @property
    def top(self) -> int | None:
        """How many of the largest logits are enough; None when the whole row is needed."""
        return None if self.request.logprobs is not None else self._sampler.reach

    def verify(self, rows: Iterable[Logits]) -> bool:
        """Answer from the rows of the last token and of the draft, as far as the draft is what is chosen.

        The state is cut back to what was. Returns whether the choice goes on.
        """
        draft, self.draft = self.draft, []
        self._drafted += len(draft)
        going = True
        for place, (row, guess) in enumerate(zip(rows, [*draft, None], strict=True)):
            if place and self._matcher is not None and isinstance(row, Largest) and place >= self._masked:
                break
            going = self.answer(row, guess)
            if not going or self.ids[-1] != guess:
                break
        assert self.state is not None
        if self.state.length > (read := len(self.ids) - going):  # the token chosen last is still to be read
            self.state.trim(read)
        return going

    def answer(self, row: Logits, guess: int | None = None) -> bool:
        """Choose the next token and emit it; whether the choice goes on. `guess`: what a draft has there.

        The largest logits of a row are those of allowed ids.
        """
        if self._failure is not None:
            raise self._failure
        request, position = self.request, len(self.ids)
        matcher = self._matcher
        allowed = None if matcher is None else matcher.allowed()
        token = self._sampler.choose(row, position, allowed)
        complete = matcher is not None and matcher.accept(token)
        self._accepted += token == guess
        value: float | None = None
        top: Alternatives = ()
        if request.logprobs is not None and not isinstance(row, Largest):
            value, top = logprob(row, token, request.logprobs, self._ranking)
        finish: Literal["stop", "length"] | None = None
        if complete or token in request.stop_ids:
            finish = "stop"
        elif position + 1 == request.positions:
            finish = "length"
        drafts = self._drafted, self._accepted
        self.call.emit(Token(time.perf_counter(), self.index, token, value, top, finish, *drafts))
        if finish is None:
            self.ids.append(token)
        return finish is None


class PromptSequence:
    """The reading of a prompt whose positions are asked for."""

    index = 0
    in_prompt = True
    source: SharedState | None = None
    top: int | None = None  # whole rows are handed out

    def __init__(
        self, call: Call, request: PromptRequest, ranking: Ranking, vocab_size: int, hidden_size: int
    ) -> None:
        self.id = call.id
        self.call = call
        self.request = request
        self.ids = list(request.ids[: request.rows])
        self.place = Place(call.root)
        self.state: State | None = None
        self._ranking = ranking
        self._scored = request.scored
        self._logit_rows = {position: i for i, position in enumerate(request.logits)}
        self._hidden_rows = {position: i for i, position in enumerate(request.hidden)}
        self._logits = np.empty((len(request.logits), vocab_size), np.float32)
        self._hidden = np.empty((len(request.hidden), hidden_size), np.float32)
        self._logprobs: list[float] = []
        self._greedy: list[bool] = []
        self._top: list[Alternatives] = []

    def tokens(self, start: int, rows: int) -> list[int]:
        """The ids to read at [start, start + rows)."""
        return self.ids[start : start + rows]

    def prepare(self, answers: bool) -> None:
        """Nothing constrains it."""

    def allowed(self, count: int) -> list[NDArray[np.uint8] | None]:
        """All ids, for each of so many rows."""
        return [None] * count

    def wanted(self, start: int, rows: int) -> tuple[list[int], list[int]]:
        """Positions in [start, start + rows) whose logits, and whose hidden states, are needed."""
        span = range(start, start + rows)
        logits = [p for p in span if p in self._logit_rows or p in self._scored]
        return logits, [p for p in span if p in self._hidden_rows]

    def read(self, logits: dict[int, Logits], hidden: dict[int, Row], finished: bool) -> None:
        """Take the rows of a step, by position; emit the outputs after the last step."""
        for position, row in logits.items():
            assert not isinstance(row, Largest)
            if position in self._logit_rows:
                self._logits[self._logit_rows[position]] = row
            if position in self._scored:
                target = self.request.ids[position + 1]
                value, top = logprob(row, target, self.request.top, self._ranking)
                self._logprobs.append(value)
                self._top.append(top)
                self._greedy.append(int(np.argmax(row)) == target)
        for position, row in hidden.items():
            self._hidden[self._hidden_rows[position]] = row
        if finished:
            numbers = tuple(self._logprobs), tuple(self._greedy), tuple(self._top)
            self.call.emit(Outputs(self._logits, self._hidden, *numbers))


Sequence = AnswerSequence | PromptSequence


def waits_for(sequence: Sequence, reader: Sequence) -> bool:
    """Whether the next page that `reader` reads is one that `sequence` begins with and has not.

    Both are prompts with a state. Who waits takes the page from the other, instead of reading it again.
    """
    assert sequence.state is not None and reader.state is not None
    if sequence.call.request.priority > reader.call.request.priority:
        return False
    if not (sequence.place.kept and reader.place.kept):
        return False
    page, both = reader.state.length // PAGE, min(len(reader.ids), sequence.call.request.reusable)
    if reader.state.length < sequence.state.length or (page + 1) * PAGE > both:
        return False
    return reader.place.chain.key(page, reader.ids) == sequence.place.chain.key(page, sequence.ids)
