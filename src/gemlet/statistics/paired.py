"""Two sides measured on the same items: is one right oftener (McNemar 1947), or larger (Fisher 1935)?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


_ENUMERATED = 14
"""Differences whose signs are turned in every way; beyond, in `_TURNS` random ones."""
_TURNS = 20_000


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value of the hypothesis that paired differences are spread alike around zero.

    Fisher's randomisation test (1935) of their sum: each sign could then as well be the other.
    Exact for few, else from random signs, the same for the same seed.
    """
    values = np.asarray(differences, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("a paired test needs differences, all of them finite")
    if len(values) <= _ENUMERATED:
        numbers = np.arange(2 ** len(values))[:, None]
        signs = 1.0 - 2.0 * (numbers >> np.arange(len(values)) & 1)
        chance = 0
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_TURNS, len(values)))
        chance = 1  # the signs as they are belong to all ways
    nearly = abs(float(values.sum())) * (1 - 1e-12)
    extreme = int((np.abs(signs @ values) >= nearly).sum())
    return (extreme + chance) / (len(signs) + chance)
