"""Quantiles of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_rank(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed: one that was measured.

    `share` is above 0, at most 1. Raises ValueError for no values.
    """
    if not values or not 0 < share <= 1:
        raise ValueError("a quantile needs values, and a share above 0 and at most 1")
    return sorted(values)[math.ceil(share * len(values)) - 1]
