"""Stored values as float32, exactly as the file's format defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import split
from gemlet.formats.tensors import KINDS, Tensor


def float_values(kind: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of a floating point kind, uint8 [rows, row_bytes], as float32 [rows, columns]."""
    rows = np.ascontiguousarray(rows)
    if kind == "BF16":
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN is still only a NaN
        return rows.view("<f4" if kind == "F32" else "<f2").astype(np.float32)


def dequantize_rows(tensor: Tensor, start: int, stop: int | None) -> NDArray[np.float32]:
    """Some rows of a tensor as float32 [rows, columns]."""
    rows = tensor.rows(start, stop)
    if KINDS[tensor.kind].is_float:
        return float_values(tensor.kind, rows)
    return split(tensor.kind, rows).values()


def dequantize(tensor: Tensor) -> NDArray[np.float32]:
    """The whole tensor as float32, in its own shape."""
    return dequantize_rows(tensor, 0, None).reshape(tensor.shape)
