"""Better codes and scales for Q4_0: what a matrix makes of its real inputs counts, not the matrix itself.

Rounding one weight leaves an error that the weights not yet rounded can take back, since inputs are
correlated: each column's error is handed on to the later columns (Frantar et al. 2022, GPTQ; the order of
least damage of Hassibi and Stork 1993). The scale of each block of 32 is searched when its turn comes, on the
weights as they then are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import Blocks
from gemlet.formats.quantize import GROUP, quantize_q4_0

Array = NDArray[np.float32]

DAMPING = 0.2
"""Added to the diagonal of the second moments, as a share of its mean: inputs of one text do not say all.

Less fits the calibration text better and others worse (docs/decisions/0011)."""

_SCALES = np.array(
    [share / -8 for share in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)]
    + [share / 8 for share in (0.85, 1.0, 8 / 7)],
    np.float32,
)
"""Scales to try, in units of the largest weight: a smaller one cuts it off and serves the others. Codes go
from -8 to 7, so the sign matters."""


def search(values: Array, moments: Array, damping: float = DAMPING) -> Blocks:
    """Q4_0 blocks of [rows, columns] that keep the products with inputs of these second moments.

    moments: float32 [columns, columns], the sum or the mean of x xᵀ over inputs x. The same arguments give
    the same blocks. Raises ValueError for shapes that do not fit.
    """
    columns = values.shape[1]
    if moments.shape != (columns, columns) or columns % GROUP:
        raise ValueError(f"moments {moments.shape} for a matrix {values.shape}")
    damped = _damped(moments, damping)
    if damped is None:
        return quantize_q4_0(values)
    order = _order(np.diagonal(damped))
    codes, scales = _hand_on(values[:, order], damped[np.ix_(order, order)])
    back = np.argsort(order)
    codes, scales = codes[:, back], scales[:, order[::GROUP].argsort()]
    return Blocks((codes + 8).astype(np.uint8), 8, GROUP, scales.astype(np.float16))


def weighted_error(values: Array, found: Blocks, moments: Array) -> float:
    """The mean square error of the products over that of the products, for inputs of these moments."""
    difference = found.values() - values
    error = float(np.vdot(difference @ moments, difference))
    return error / float(np.vdot(values @ moments, values))


def _damped(moments: Array, damping: float) -> NDArray[np.float64] | None:
    """Moments that can be inverted; None where there were no inputs but zero."""
    damped = moments.astype(np.float64)
    mean = float(np.diagonal(damped).mean())
    if not mean > 0:
        return None
    damped[np.diag_indices_from(damped)] += damping * mean
    return damped


def _order(diagonal: NDArray[Any]) -> NDArray[np.intp]:
    """Blocks of 32 as they are stored, those with the strongest inputs first: they are rounded while most
    columns are left to take back the error."""
    blocks = np.argsort(-diagonal.reshape(-1, GROUP).sum(axis=1), kind="stable")
    return (blocks[:, None] * GROUP + np.arange(GROUP)).reshape(-1)


def _hand_on(values: Array, moments: NDArray[np.float64]) -> tuple[Array, Array]:
    """Codes from -8 to 7 [rows, columns] and scales [rows, columns / 32], column after column."""
    columns = values.shape[1]
    # Row i of this factor says how the error of column i is best spread over the columns behind it.
    factor = _factor(moments)
    left, codes = np.array(values.T), np.empty((columns, len(values)), np.float32)  # columns are rows here
    scales = np.empty((columns // GROUP, len(values)), np.float32)
    for start in range(0, columns, GROUP):
        stop = start + GROUP
        block, own = left[start:stop], factor[start:stop, start:stop]
        importance = 1 / np.diagonal(own) ** 2
        scale = _search_scale(block, importance.astype(np.float32))
        errors = np.empty_like(block)
        inverse = np.zeros_like(scale)
        np.divide(1, scale, out=inverse, where=scale != 0)
        for i in range(GROUP):
            code = np.clip(np.rint(block[i] * inverse), -8, 7)
            errors[i] = (block[i] - code * scale) / own[i, i]
            block[i + 1 :] -= own[i, i + 1 :, None] * errors[i]
            codes[start + i] = code
        left[stop:] -= factor[start:stop, stop:].T @ errors
        scales[start // GROUP] = scale
    return codes.T, scales.T


def _factor(moments: NDArray[np.float64]) -> Array:
    """The upper triangular U with U^T U the inverse of the moments."""
    # Reversed in both axes, a lower Cholesky factor becomes an upper one, whose inverse is wanted.
    lower = np.linalg.cholesky(moments[::-1, ::-1])
    upper = lower[::-1, ::-1]
    inverse: Array = np.linalg.inv(upper).astype(np.float32)
    return inverse


def _search_scale(block: Array, importance: Array) -> Array:
    """The half-float scale of each row of least weighted error. block: [32, rows], importance: [32]."""
    largest = np.take_along_axis(block, np.abs(block).argmax(axis=0)[None], axis=0)[0]
    best, least = np.zeros_like(largest), np.full_like(largest, np.inf)
    for share in _SCALES:
        scale = (largest * share).astype(np.float16).astype(np.float32)
        error = _rounding_error(block, scale, importance)
        better = error < least
        best[better], least[better] = scale[better], error[better]
    found: Array = best
    return found


def _rounding_error(block: Array, scale: Array, importance: Array) -> Array:
    inverse = np.zeros_like(scale)
    np.divide(1, scale, out=inverse, where=scale != 0)
    codes = block * inverse
    np.rint(codes, out=codes)
    np.clip(codes, -8, 7, out=codes)
    codes *= scale
    codes -= block
    codes *= codes
    error: Array = importance @ codes
    return error
