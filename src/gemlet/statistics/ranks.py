"""Comparing two small samples by ranks: nothing is assumed of how the values are spread.

Mann and Whitney 1947 (the test), Hodges and Lehmann 1963 (the shift), Holm 1979 (several tests at once).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

_MOST_SPLITS = 200_000
"""Ways to split the pooled values that are gone through one by one; beyond, the normal approximation."""


@dataclass(frozen=True)
class Shift:
    """By how much one sample lies above another, with the interval that holds it at the confidence asked for.

    `low` and `high` are infinite where there are too few values for that confidence.
    """

    estimate: float
    low: float
    high: float


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p value of the hypothesis that both samples come from one distribution."""
    _check(a, b)
    ranks = _midranks([*a, *b])
    n, total = len(a), len(a) + len(b)
    centre = n * (total + 1) / 2
    distance = abs(sum(ranks[:n]) - centre)
    if math.comb(total, n) <= _MOST_SPLITS:
        sums = [abs(sum(chosen) - centre) for chosen in combinations(ranks, n)]
        return sum(s >= distance - 1e-9 for s in sums) / len(sums)
    mean = (total + 1) / 2
    deviation = math.sqrt(n * len(b) / (total * (total - 1)) * sum((rank - mean) ** 2 for rank in ranks))
    if deviation == 0:
        return 1.0
    return math.erfc(max(0.0, distance - 0.5) / deviation / math.sqrt(2))


def shift(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Shift:
    """How far `a` lies above `b`: the median of all differences, and its interval from the same ranks."""
    _check(a, b)
    differences = sorted(x - y for x in a for y in b)
    outside = _differences_outside(len(a), len(b), (1 - confidence) / 2)
    if outside == 0:
        return Shift(median(differences), -math.inf, math.inf)
    return Shift(median(differences), differences[outside - 1], differences[-outside])


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted so that, of all the tests together, one errs no oftener than one test alone would."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _check(a: Sequence[float], b: Sequence[float]) -> None:
    if not a or not b or not all(map(math.isfinite, [*a, *b])):
        raise ValueError("both samples need values, all of them finite")


def _midranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1; equal ones share the middle of theirs."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + 1 + end) / 2
        start = end
    return ranks


def _differences_outside(n: int, m: int, tail: float) -> int:
    """How many of the n * m sorted differences lie outside the interval at each end.

    It is the largest k with P(U < k) <= tail, U counting the pairs in which the first sample is the larger.
    """
    counts = [1, *[0] * (n * m)]  # of splits by U; a factor (1 - q^(m+i)) / (1 - q^i) for each i
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    total, below, k = math.comb(n + m, n), 0, 0
    while (below := below + counts[k]) <= tail * total:
        k += 1
    return k
