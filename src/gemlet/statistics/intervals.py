"""Confidence intervals: of a mean, of a share, and by resampling whole blocks of values.

Student 1908 (the mean), Wilson 1927 (the share), Efron 1987 (BCa, the corrected bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Method = Literal["bca", "percentile"]

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of the interval that holds the true value at the confidence asked for.

    The ends are infinite where there is too little to say anything.
    """

    estimate: float
    low: float
    high: float

    def map(self, increasing: Callable[[float], float]) -> Interval:
        """The same under an increasing function, such as `math.exp`."""
        return Interval(increasing(self.estimate), increasing(self.low), increasing(self.high))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values, with Student's interval. One value has an infinite one."""
    _check(values, confidence)
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_quantile((1 + confidence) / 2, n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The share of successes, with Wilson's interval: it stays within 0 and 1, also for few trials."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials")
    _check([0.0], confidence)
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    share, shrink = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / shrink
    low = 0.0 if successes == 0 else centre - half
    return Interval(share, low, 1.0 if successes == trials else centre + half)


def bootstrap(
    blocks: Sequence[NDArray[Any]],
    statistic: Callable[[Array], float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "bca",
) -> Interval:
    """A statistic of all values together, its interval from drawing whole blocks anew, with replacement.

    blocks: arrays [n] or [n, k]; values within one may depend on each other, as tokens of a document do. For
    paired values put both in a row. statistic: takes the rows of all drawn blocks together. The same seed
    gives the same interval. BCa corrects bias and skewness; if all resamples agree it is a point.
    One block has an infinite interval.
    """
    _check([0.0], confidence)
    arrays = [np.asarray(block, np.float64) for block in blocks]
    if not arrays or any(not len(block) or not np.isfinite(block).all() for block in arrays):
        raise ValueError("blocks need values, all of them finite")
    estimate = statistic(np.concatenate(arrays))
    if len(arrays) == 1:
        return Interval(estimate, -math.inf, math.inf)
    draws = np.random.default_rng(seed).integers(0, len(arrays), (resamples, len(arrays)))
    found = np.sort([statistic(np.concatenate([arrays[i] for i in draw])) for draw in draws])
    if found[0] == found[-1]:
        return Interval(estimate, float(found[0]), float(found[-1]))
    levels = (1 - confidence) / 2, (1 + confidence) / 2
    if method == "bca":
        levels = _corrected(levels, found, estimate, _jackknife(arrays, statistic))
    low, high = np.quantile(found, levels)
    return Interval(estimate, float(low), float(high))


def _jackknife(blocks: list[Array], statistic: Callable[[Array], float]) -> Array:
    """The statistic without each of the blocks in turn."""
    rest = [np.concatenate(blocks[:i] + blocks[i + 1 :]) for i in range(len(blocks))]
    return np.array([statistic(values) for values in rest])


def _corrected(
    levels: tuple[float, float], found: Array, estimate: float, without: Array
) -> tuple[float, float]:
    """The levels at which BCa reads the sorted resampled statistics."""
    below = (np.count_nonzero(found < estimate) + np.count_nonzero(found <= estimate)) / 2
    share = min(max(below / len(found), 0.5 / len(found)), 1 - 0.5 / len(found))
    bias = _NORMAL.inv_cdf(share)
    away = without.mean() - without
    spread = float((away**2).sum()) ** 1.5
    acceleration = float((away**3).sum()) / (6 * spread) if spread else 0.0

    def level(at: float) -> float:
        z = bias + _NORMAL.inv_cdf(at)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    return level(levels[0]), level(levels[1])


def student_quantile(share: float, freedom: float) -> float:
    """The value that a t-distributed variable stays below with probability `share`."""
    if not 0 < share < 1 or not freedom > 0:
        raise ValueError("a quantile needs a share between 0 and 1, and degrees of freedom above 0")
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < share and high < 1e300:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: float) -> float:
    """For t >= 0, by the incomplete beta function."""
    return 1 - 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for numerator in (even, odd):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    return math.exp(log_front) * fraction / a


def _check(values: Sequence[float], confidence: float) -> None:
    if not len(values) or not all(map(math.isfinite, values)):
        raise ValueError("an interval needs values, all of them finite")
    if not 0 < confidence < 1:
        raise ValueError("a confidence lies between 0 and 1")
