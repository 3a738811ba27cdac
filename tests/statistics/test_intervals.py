"""Intervals against known values, scipy where it is there, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemlet.statistics.intervals import bootstrap, mean_interval, student_quantile, wilson
from gemlet.statistics.paired import mcnemar


@pytest.mark.parametrize(
    ("share", "freedom", "known"),
    [(0.975, 1, 12.7062047), (0.975, 4, 2.7764451), (0.995, 30, 2.7499957), (0.975, 1000, 1.9623391)],
)
def test_student_quantiles_are_those_of_the_tables(share: float, freedom: float, known: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(known, rel=1e-7)
    assert student_quantile(1 - share, freedom) == pytest.approx(-known, rel=1e-7)


def test_quantiles_wilson_and_bootstrap_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for share in (0.001, 0.3, 0.9, 0.9995):
        for freedom in (1, 2.5, 9, 200):
            assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-8)
    for successes, trials in ((0, 5), (3, 7), (40, 41), (7, 7)):
        theirs = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        ours = wilson(successes, trials)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    values = np.random.default_rng(1).exponential(size=40)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=3).confidence_interval
    ours = bootstrap(list(values.reshape(40, 1)), lambda x: float(x.mean()), resamples=20000, seed=4)
    spread = float(values.std() / math.sqrt(40))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.08 * spread)


def test_mean_interval_of_known_values() -> None:
    found = mean_interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (found.estimate, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-7)
    assert mean_interval([7.0]).high == math.inf


def test_bootstrap_draws_whole_blocks() -> None:
    # Values of a block are equal: as 5 blocks they say far less than as 500 values of their own.
    blocks = [np.full(100, value) for value in (0.0, 1.0, 2.0, 3.0, 4.0)]
    by_block = bootstrap(blocks, lambda x: float(x.mean()))
    by_value = bootstrap([np.array([v]) for b in blocks for v in b], lambda x: float(x.mean()))
    assert by_block.high - by_block.low > 5 * (by_value.high - by_value.low)


def test_bootstrap_is_repeatable_and_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        blocks = rng.exponential(size=(30, 1))
        found = bootstrap(list(blocks), lambda x: float(x.mean()), resamples=300, seed=2)
        held += found.low <= 1 <= found.high
    assert bootstrap(list(blocks), lambda x: float(x.mean()), resamples=300, seed=2) == found
    assert held >= 84  # of 100 at 95 %; five standard deviations of a binomial of 0.95 below it


def test_bootstrap_of_nothing_of_one_and_of_equals() -> None:
    def mean(x: np.ndarray) -> float:
        return float(x.mean())

    with pytest.raises(ValueError, match="finite"):
        bootstrap([], mean)
    with pytest.raises(ValueError, match="finite"):
        bootstrap([np.array([math.nan])], mean)
    assert bootstrap([np.ones(3)], mean).low == -math.inf
    assert bootstrap([np.ones(3), np.ones(2)], mean).high == 1


def test_mcnemar_against_the_binomial() -> None:
    first = [True] * 9 + [False] * 1 + [True] * 20
    second = [False] * 9 + [True] * 1 + [True] * 20
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (9, 1)
    assert found.p == pytest.approx(2 * 11 / 1024)
    assert mcnemar([True, False], [True, False]).p == 1.0
    with pytest.raises(ValueError, match="each"):
        mcnemar([True], [])
