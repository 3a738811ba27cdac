"""Rank statistics against their definitions, gone through one by one."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from gemlet.statistics.ranks import holm, rank_test, shift


def by_counting(a: list[float], b: list[float]) -> float:
    """The p value from U itself: over every way to call some of the pooled values `a`."""
    pooled = a + b

    def distance(chosen: tuple[int, ...]) -> float:
        others = [i for i in range(len(pooled)) if i not in chosen]
        wins = sum((pooled[i] > pooled[j]) + 0.5 * (pooled[i] == pooled[j]) for i in chosen for j in others)
        return abs(wins - len(a) * len(b) / 2)

    seen = distance(tuple(range(len(a))))
    all_of_them = [distance(chosen) for chosen in combinations(range(len(pooled)), len(a))]
    return sum(d >= seen for d in all_of_them) / len(all_of_them)


@pytest.mark.parametrize("seed", range(20))
def test_p_value_is_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    a = [float(rng.randint(0, 6)) for _ in range(rng.randint(1, 5))]
    b = [float(rng.randint(0, 6)) for _ in range(rng.randint(1, 5))]
    assert rank_test(a, b) == pytest.approx(by_counting(a, b))


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([1, 2, 3], [4, 5, 6], 0.1),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 1, 1], [1, 1, 1], 1.0),
        ([5], [5], 1.0),
    ],
)
def test_known_p_values(a: list[float], b: list[float], p: float) -> None:
    assert rank_test(a, b) == pytest.approx(p)


def test_large_samples_take_the_normal_approximation() -> None:
    a, b = [float(i) for i in range(40)], [i + 0.5 for i in range(40)]
    assert 0.5 < rank_test(a, b) < 1
    assert rank_test(a, [x + 30 for x in b]) < 1e-6
    assert rank_test([1.0] * 40, [1.0] * 40) == 1.0


def test_shift_of_seven_and_seven() -> None:
    """The tables of the exact distribution reject up to U = 8: the ninth difference is the first inside."""
    a = [float(i) for i in range(7)]
    b = [10.0 * i for i in range(7)]
    differences = sorted(x - y for x in a for y in b)
    found = shift(a, b)
    assert (found.low, found.high) == (differences[8], differences[-9])
    assert found.low <= found.estimate <= found.high


def test_too_few_values_give_no_interval() -> None:
    found = shift([1.0, 2.0], [5.0, 6.0])
    assert found.estimate == -4.0 and (found.low, found.high) == (-math.inf, math.inf)


def test_the_interval_holds_the_true_shift_as_often_as_it_says() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(2000):
        found = shift([rng.gauss(3, 1) for _ in range(6)], [rng.gauss(0, 1) for _ in range(7)])
        held += found.low <= 3 <= found.high
    # At least 95 %: 1900 of 2000, less three standard deviations of a count.
    assert held >= 1900 - 3 * math.sqrt(2000 * 0.95 * 0.05)
    assert held < 2000


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([math.inf], [1.0])])
def test_nothing_to_compare(a: list[float], b: list[float]) -> None:
    for function in (rank_test, shift):
        with pytest.raises(ValueError, match="finite"):
            function(a, b)
