"""Speculators for tests: they know the answer, and draft it right, wrong, or wrong from some token on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.speculate import MOST

Truth = Callable[[AnswerSequence], Sequence[int]]
"""The whole answer of a sequence."""


class KnowingSpeculator:
    """Drafts `count()` tokens of which the first `right()` are what comes, and the one behind them is not."""

    def __init__(self, truth: Truth, count: Callable[[], int], right: Callable[[], int]) -> None:
        self._truth = truth
        self._count = count
        self._right = right
        self.drafted = 0
        self.steps: list[tuple[int, int]] = []
        self.forgotten: set[int] = set()
        self.closed = False

    def drafts(self, sequences: Sequence[AnswerSequence], beside: int, room: int) -> dict[int, list[int]]:
        made = {}
        for sequence in sequences:
            position = len(sequence.ids) - len(sequence.request.ids)
            coming = list(self._truth(sequence)[position : position + self._count()])
            right = self._right()
            if right < len(coming):
                coming[right] = (coming[right] + 1) % 40
            if coming:
                made[sequence.id] = coming
                self.drafted += len(coming)
        return made

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        self.steps.append((rows, beside))

    def forget(self, id: int) -> None:
        self.forgotten.add(id)

    def kv_bytes(self, positions: int) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


def random_speculator(truth: Truth, rng: random.Random) -> KnowingSpeculator:
    """Drafts of every length, right up to anywhere."""
    return KnowingSpeculator(truth, lambda: rng.randint(0, MOST), lambda: rng.choice([0, 1, 5, MOST]))
