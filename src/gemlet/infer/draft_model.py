"""Drafts from a smaller model with the same tokenizer, which reads along and says what it would say next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gemlet.errors import GemletError
from gemlet.infer.ngrams import KINDS, Acceptance
from gemlet.infer.sample import Ranking, choose, uniform
from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.step_cost import StepCost
from gemlet.model.config import ModelConfig
from gemlet.ops.batch import Batch, State, StepOutput

FIRST_GUESS = 0.7
"""Acceptance of a smaller model's tokens until some was seen."""

CHUNK = 128
"""Rows of a text that the model reads at a time, so that no answer waits long for it."""


class SmallDecoder(Ranking, Protocol):
    """What is needed of the `model.decoder.Decoder` that drafts."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def max_rows(self) -> int: ...
    def new_state(self) -> State: ...
    def step(self, batch: Batch) -> StepOutput: ...
    def kv_bytes(self, positions: int) -> int: ...
    def close(self) -> None: ...


@dataclass
class _Follower:
    """How far the model has read one sequence. `guesses` were said behind the first `known` ids."""

    state: State
    acceptance: Acceptance
    known: int = 0
    guesses: list[int] = field(default_factory=list)
    unread: Sequence[int] = ()  # ids for the next step


_Said = tuple[AnswerSequence, int, _Follower]
"""A sequence, the tokens wanted of it, and its follower."""


class DraftModel:
    """Follows sequences with a decoder of its own, which it owns. For the engine's thread only.

    The guess at a position is drawn with the random number that the sampler will use there, so that two
    models that think alike say the same also where the answer is sampled.
    """

    def __init__(self, decoder: SmallDecoder) -> None:
        self._decoder = decoder
        self._followers: dict[int, _Follower | None] = {}  # None: it failed there
        self._everywhere = Acceptance([FIRST_GUESS] * KINDS, weight=8, memory=256)
        self._cost = StepCost()
        self.measured = False

    def token_seconds(self, sequences: int) -> float:
        """What a token takes where so many sequences are drafted for together; 0 before it was measured."""
        return self._cost.curve(sequences)[sequences] / sequences if self.measured else 0.0

    def chance(self, sequence: AnswerSequence) -> float:
        """That its next token will be chosen."""
        follower = self._followers.get(sequence.id)
        return (self._everywhere if follower is None else follower.acceptance)[0]

    def read(self, sequence: AnswerSequence) -> bool:
        """Follow the sequence, CHUNK rows at most; whether the model is near enough to its end to draft."""
        follower = self._follow(sequence)
        if follower is None:
            return False
        self._compare(follower, sequence.ids)
        behind = len(sequence.ids) - follower.known
        if behind <= CHUNK:
            return True
        rows = sequence.ids[follower.known : follower.known + CHUNK]
        try:
            self._decoder.step(Batch.of([(follower.state, rows)], logits="none"))
        except (GemletError, MemoryError):
            self._followers[sequence.id] = None
            return False
        follower.known += CHUNK
        return behind - CHUNK <= CHUNK

    def draft(self, sequences: Sequence[tuple[AnswerSequence, int]]) -> dict[int, list[int]]:
        """So many tokens for each sequence, all of which `read` has found near enough."""
        going: list[_Said] = []
        for sequence, count in sequences:
            follower = self._followers.get(sequence.id)
            rows = sum(len(other.unread) for *_, other in going)
            if follower is not None and rows + CHUNK <= self._decoder.max_rows:
                follower.unread = sequence.ids[follower.known :]
                follower.known = len(sequence.ids)
                going.append((sequence, count, follower))
        drafted = {sequence.id: follower.guesses for sequence, _, follower in going}
        try:
            while going := [said for said in going if len(said[2].guesses) < said[1]]:
                self._say(going)
        except (GemletError, MemoryError):
            for id in drafted:
                self._followers[id] = None
            return {}
        return {id: list(guesses) for id, guesses in drafted.items()}

    def forget(self, id: int) -> None:
        """The sequence has ended. An unknown id is ignored."""
        self._followers.pop(id, None)

    def kv_bytes(self, positions: int) -> int:
        """Bytes that following a sequence of that many positions takes, at most."""
        return self._decoder.kv_bytes(min(positions, self._decoder.config.context_length))

    def close(self) -> None:
        """Release the decoder."""
        self._followers.clear()
        self._decoder.close()

    def _follow(self, sequence: AnswerSequence) -> _Follower | None:
        if sequence.request.positions > self._decoder.config.context_length:
            return None
        if sequence.id not in self._followers:
            try:
                state = self._decoder.new_state()
            except MemoryError:
                self._followers[sequence.id] = None
            else:
                known = Acceptance(self._everywhere, weight=4, memory=64)
                self._followers[sequence.id] = _Follower(state, known)
        return self._followers[sequence.id]

    def _compare(self, follower: _Follower, ids: Sequence[int]) -> None:
        """What came in the place of the guesses; the state is cut back to where they agree."""
        agreed = 0
        for guess, token in zip(follower.guesses, ids[follower.known :], strict=False):
            follower.acceptance.add(0, guess == token)
            if guess != token:
                break
            agreed += 1
        follower.guesses = []
        follower.known = min(follower.state.length, follower.known + agreed)  # the last guess was not read
        follower.state.trim(follower.known)

    def _say(self, going: Sequence[_Said]) -> None:
        """One more token of each."""
        began = time.perf_counter()
        rows = sum(len(follower.unread) for *_, follower in going)
        output = self._decoder.step(Batch.of([(follower.state, follower.unread) for *_, follower in going]))
        for (sequence, _, follower), row in zip(going, output.logits, strict=True):
            request, position = sequence.request, follower.known + len(follower.guesses)
            u = uniform(request.seed, sequence.index, position)
            follower.guesses.append(choose(row, request.sampling, u, self._decoder))
            follower.unread = follower.guesses[-1:]
        self._cost.add(rows, 0, time.perf_counter() - began)
        self.measured = True
