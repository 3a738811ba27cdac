"""Quantiles by the nearest rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlet.statistics.quantiles import nearest_rank


def test_of_a_hundred() -> None:
    values = list(range(100, 0, -1))
    assert [nearest_rank(values, share) for share in (0.001, 0.5, 0.99, 1)] == [1, 50, 99, 100]


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0.01, 1))
def test_enough_values_are_not_above(values: list[float], share: float) -> None:
    found = nearest_rank(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0), ([1.0], 1.1)])
def test_what_has_none(values: list[float], share: float) -> None:
    with pytest.raises(ValueError):
        nearest_rank(values, share)
