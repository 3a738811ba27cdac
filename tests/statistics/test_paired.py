"""Tests of paired values against ways that can be counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemlet.statistics.paired import sign_flip


def test_all_ways_of_few_differences() -> None:
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8  # only all alike is as far from zero
    assert sign_flip([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([1.0] * 10) == 2 / 1024


def test_many_differences_are_judged_alike_by_random_signs() -> None:
    values = np.random.default_rng(1).standard_normal(40) + 0.35
    z = abs(values.sum()) / math.sqrt(float((values**2).sum()))
    normal = math.erfc(z / math.sqrt(2))  # the sum of random signs is nearly normal
    found = sign_flip(values.tolist())
    # Twenty thousand draws: three deviations, and the approximation of the normal.
    assert found == pytest.approx(normal, abs=3 * math.sqrt(normal / 20_000) + 0.003)
    assert sign_flip(values.tolist()) == found
    assert sign_flip([1.0] * 30) == 1 / 20_001


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 1.0]])
def test_what_is_no_sample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="paired test"):
        sign_flip(values)
