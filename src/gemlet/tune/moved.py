"""Which parameters training moved most, next to their own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError
from gemlet.model.weights import Weights
from gemlet.ops.operations import LowRank
from gemlet.ops.packed import PANEL, Packed, unpack

_VALUES = 1 << 22
"""Values made dense at a time."""


@dataclass(frozen=True)
class Moved:
    """name: canonical, such as blk.3.attn_q. change: the Frobenius norm of what was added. relative: over
    that of the matrix itself, infinite where that is zero."""

    name: str
    change: float
    relative: float


def moved_by_adapter(parts: Mapping[str, LowRank], weights: Weights) -> list[Moved]:
    """What each part of an adapter adds to its matrix, those that move most first."""
    found = [_moved(name, low_rank_norm(part), _norm(weights.packed[name])) for name, part in parts.items()]
    return _ordered(found)


def moved_between(before: Weights, after: Weights) -> list[Moved]:
    """How far each matrix and vector of a model went from another's, the farthest first.

    InvalidRequestError where one has what the other has not, or of another shape.
    """
    found = []
    if before.packed.keys() != after.packed.keys() or before.vectors.keys() != after.vectors.keys():
        raise InvalidRequestError("models with different matrices cannot be compared")
    for name, matrix in before.packed.items():
        other = after.packed[name]
        if (matrix.rows, matrix.columns) != (other.rows, other.columns):
            raise InvalidRequestError(f"{name}: the models have it in different shapes")
        change = sum(_square(a - b) for a, b in zip(_dense_slices(other), _dense_slices(matrix), strict=True))
        found.append(_moved(name, sqrt(change), _norm(matrix)))
    for name, vector in before.vectors.items():
        change = _square(after.vectors[name] - vector)
        found.append(_moved(name, sqrt(change), sqrt(_square(vector))))
    return _ordered(found)


def low_rank_norm(part: LowRank) -> float:
    """‖scale · B · A‖, Frobenius, from the two small Gram matrices: the product is never formed.

    ‖BA‖² is the trace of (BᵀB)(AAᵀ).
    """
    a, b = (unpack(side).astype(np.float64) for side in (part.a, part.b))
    return abs(part.scale) * sqrt(max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))))


def _moved(name: str, change: float, size: float) -> Moved:
    relative = change / size if size else (np.inf if change else 0.0)
    return Moved(name, change, float(relative))


def _ordered(found: list[Moved]) -> list[Moved]:
    return sorted(found, key=lambda moved: (-moved.relative, moved.name))


def _norm(matrix: Packed) -> float:
    return sqrt(sum(_square(part) for part in _dense_slices(matrix)))


def _square(values: NDArray[np.float32]) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))


def _dense_slices(matrix: Packed) -> Iterator[NDArray[np.float32]]:
    """The rows of a matrix in float32, some at a time: a large embedding is never dense as a whole."""
    panels = -(-matrix.rows // PANEL)
    step = max(1, _VALUES // (matrix.columns * PANEL))
    for start in range(0, panels, step):
        rows = min(matrix.rows, (start + step) * PANEL) - start * PANEL
        arrays = {name: array[start : start + step] for name, array in matrix.arrays.items()}
        yield unpack(Packed(matrix.format, rows, matrix.columns, arrays))
