"""What a step costs, learnt from the steps that were run."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

KEPT = 9
"""Measurements of each number of rows; their median counts, so that a pause of the process does not."""

OLDEST = 1000
"""Steps after which a measurement says nothing any more: the machine may have become faster."""

FIRST_GUESS = 0.3
"""A further row's share of the cost of a step with few, until two kinds of steps were measured."""

EXACT = 32
"""Row numbers up to this are told apart; above it, to a quarter of the next power of two."""


@dataclass
class _Measured:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    median: float = 0.0
    step: int = 0


class StepCost:
    """Seconds of a step by the rows of answers in it, each with its logits, and by the rows beside them."""

    def __init__(self) -> None:
        self._by_rows: dict[int, _Measured] = {}
        self._prompt_row: deque[float] = deque(maxlen=KEPT)
        self._steps = 0

    def add(self, rows: int, prompt_rows: int, seconds: float) -> None:
        """A step with `rows` rows of answers and `prompt_rows` others took so long."""
        self._steps += 1
        if prompt_rows:
            if rows == 0 or self._by_rows:
                before = self.curve(rows)[rows] if rows else 0.0
                self._prompt_row.append(max(0.0, seconds - before) / prompt_rows)
        elif rows:
            measured = self._by_rows.setdefault(_rounded(rows), _Measured())
            measured.seconds.append(seconds)
            measured.median = statistics.median(measured.seconds)
            measured.step = self._steps

    def prompt_row(self) -> float:
        """Seconds of one of the other rows."""
        return statistics.median(self._prompt_row) if self._prompt_row else 0.0

    def curve(self, most: int) -> list[float]:
        """Seconds of steps with 0 to `most` rows of answers; in an unknown unit before any was run.

        Between measured numbers of rows the cost is a straight line, beyond them the line from the first to
        the last. More rows never count as cheaper than fewer.
        """
        for rows in [r for r, m in self._by_rows.items() if self._steps - m.step >= OLDEST]:
            del self._by_rows[rows]
        points = sorted((rows, m.median) for rows, m in self._by_rows.items())
        for i in reversed(range(len(points) - 1)):
            points[i] = points[i][0], min(points[i][1], points[i + 1][1])
        first, last = (points[0], points[-1]) if points else ((1, 1.0), (1, 1.0))
        slope = FIRST_GUESS * first[1] / (1 + FIRST_GUESS * (first[0] - 1))
        points.insert(0, (0, max(0.0, first[1] - first[0] * slope)))
        if last[0] > first[0]:
            slope = (last[1] - first[1]) / (last[0] - first[0])
        if most > points[-1][0]:
            points.append((most, last[1] + (most - last[0]) * slope))
        curve = [points[0][1]]
        for (a, low), (b, high) in pairwise(points):
            curve += [low + (high - low) * (i + 1) / (b - a) for i in range(b - a)]
        return curve[: most + 1]


def _rounded(rows: int) -> int:
    if rows <= EXACT:
        return rows
    grain = 1 << (rows.bit_length() - 3)
    return -(-rows // grain) * grain


def best_count(
    chances: Sequence[float],
    rows: int,
    curve: Sequence[float],
    beside: float = 0.0,
    prices: Sequence[float] = (),
) -> tuple[int, float]:
    """How many drafted tokens to check in a step with `rows` rows of answers, and the tokens a second then.

    chances: that each is accepted, in the order in which they would be added. curve: seconds of a step by its
    rows of answers, `rows + len(chances)` at most. beside: seconds of what else the step computes. prices:
    seconds that drafting each takes, nothing by default.
    """
    best, most = 0, rows / (curve[rows] + beside)
    tokens, paid = float(rows), beside
    for count, (chance, price) in enumerate(zip_longest(chances, prices, fillvalue=0.0), 1):
        tokens += chance
        paid += price
        rate = tokens / (curve[rows + count] + paid)
        if rate > most:
            best, most = count, rate
    return best, most
