"""Drafts: tokens that are guessed ahead and checked together, because a step of several rows costs less than
as many steps.

A draft never shows in a result. The rows of a step are verified one after another by the sampler that would
have run without it, with the same random number at each position, and a guess counts only where the sampler
chose it. What is decided here is therefore only what pays: how many guesses of which sequence are checked,
from how often guesses came true and what steps took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gemlet.infer.ngrams import NgramDrafter, everywhere
from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.step_cost import StepCost, best_count

MOST = 16
"""Tokens of a draft. What local layers keep beyond their window must cover them (native: a page of 64)."""

UNLIKELY = 0.02
"""Guesses less likely than this are not worth the thought."""

Drafts = Mapping[int, Sequence[int]]
"""Tokens to check, by the sequence's id."""


class Speculator(Protocol):
    """Proposes drafts. Whatever it proposes, results stay the same."""

    def drafts(self, sequences: Sequence[AnswerSequence], beside: int, room: int) -> Drafts:
        """Tokens that may follow the ids of these sequences, which all answer, in the next step.

        beside: rows of prompts in the same step. room: tokens in all, at most; what is beyond is not checked.
        """

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        """A step took so long, with `rows` rows of answers, drafts among them, and `beside` others."""

    def forget(self, id: int) -> None:
        """The sequence has ended. An unknown id is ignored."""

    def close(self) -> None:
        """Release what it holds."""


class NgramSpeculator:
    """Drafts from the prompt and the answer so far, as long as they pay."""

    def __init__(self) -> None:
        self._everywhere = everywhere()
        self._drafters: dict[int, NgramDrafter] = {}
        self._cost = StepCost()

    def drafts(self, sequences: Sequence[AnswerSequence], beside: int, room: int) -> Drafts:
        likely = []
        for sequence in sequences:
            drafter = self._drafter(sequence)
            drafter.read(sequence.ids)
            likely += [
                (-chance, sequence.id)
                for chance in drafter.chances(min(MOST, sequence.room))
                if chance >= UNLIKELY
            ]
        if not likely or room <= 0:
            return {}
        likely = sorted(likely)[:room]  # a sequence's own stay in order: none is likelier than the one before
        rows = len(sequences)
        curve = self._cost.curve(rows + len(likely))
        count = best_count([-c for c, _ in likely], rows, curve, beside * self._cost.prompt_row())
        counts: dict[int, int] = {}
        for _, id in likely[:count]:
            counts[id] = counts.get(id, 0) + 1
        return {s.id: self._drafters[s.id].draft(s.ids, counts[s.id]) for s in sequences if s.id in counts}

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        self._cost.add(rows, beside, seconds)

    def forget(self, id: int) -> None:
        self._drafters.pop(id, None)

    def close(self) -> None:
        self._drafters.clear()

    def _drafter(self, sequence: AnswerSequence) -> NgramDrafter:
        drafter = self._drafters.get(sequence.id)
        if drafter is None:
            drafter = NgramDrafter(len(sequence.request.ids), self._everywhere)
            self._drafters[sequence.id] = drafter
        return drafter
