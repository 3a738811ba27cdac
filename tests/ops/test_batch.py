"""A batch that does not describe a step is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gemlet.errors import InvalidRequestError
from gemlet.ops.batch import Batch
from gemlet.ops.reference_state import ReferenceState


def state(length: int = 0) -> ReferenceState:
    fresh = ReferenceState((), np.dtype(np.float32))
    fresh.advance(length)
    return fresh


def batch() -> Batch:
    return Batch.of([(state(), [5, 6, 7]), (state(9), [8])])


def test_of_lays_the_parts_out() -> None:
    made = batch()
    assert made.ids.tolist() == [5, 6, 7, 8]
    assert made.positions.tolist() == [0, 1, 2, 9]
    assert made.rows == (3, 1)
    assert made.logits.tolist() == [2, 3]
    assert made.hidden.tolist() == []


def test_of_asks_for_all_or_none() -> None:
    made = Batch.of([(state(), [1, 2])], logits="none", hidden="all")
    assert (made.logits.tolist(), made.hidden.tolist()) == ([], [0, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [5, 6, 7, 8]},
        {"ids": np.array([5, 6, 7, 8])},
        {"ids": np.array([[5, 6, 7, 8]], np.int32)},
        {"ids": np.arange(8, dtype=np.int32)[::2]},
        {"ids": np.arange(5, dtype=np.int32)},
        {"positions": np.array([0, 1, 2, 8], np.int32)},
        {"positions": np.array([0, 2, 1, 9], np.int32)},
        {"positions": np.array([0, 1, 2], np.int32)},
        {"rows": (3,)},
        {"rows": (4, 0)},
        {"rows": (3, 2)},
        {"rows": (2, 2)},
        {"rows": (5, -1)},
        {"logits": np.array([4], np.int32)},
        {"logits": np.array([-1], np.int32)},
        {"hidden": np.array([0, 4], np.int32)},
        {"hidden": np.array([0.0], np.float32)},
    ],
)
def test_a_wrong_batch_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="batch"):
        replace(batch(), **change)


def test_a_state_occurs_once() -> None:
    same = state()
    with pytest.raises(InvalidRequestError, match="twice"):
        Batch.of([(same, [1]), (same, [1])])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        Batch.of([])
    with pytest.raises(InvalidRequestError):
        Batch.of([(state(), [])])


@pytest.mark.parametrize("ids", [[0, 10], [-1, 3]])
def test_ids_stay_inside_the_vocabulary(ids: list[int]) -> None:
    made = Batch.of([(state(), ids)])
    with pytest.raises(InvalidRequestError, match="ids"):
        made.check_ids(10)
    Batch.of([(state(), [0, 9])]).check_ids(10)
