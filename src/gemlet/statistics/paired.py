"""Two answers to each of the same questions: is one side right oftener than the other? (McNemar 1947)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class McNemar:
    """`only_first`, `only_second`: questions that one side alone has right. `p`: two-sided, exact."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """The exact test of paired right or wrong answers: questions that both have alike say nothing."""
    if len(first) != len(second) or not first:
        raise ValueError("both sides need an answer to each of the same questions")
    b = sum(x and not y for x, y in zip(first, second, strict=True))
    c = sum(y and not x for x, y in zip(first, second, strict=True))
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return McNemar(b, c, min(1.0, 2 * tail / 2**n))
