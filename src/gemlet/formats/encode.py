"""Float32 values as a file stores them: the inverse of `dequantize`, for the kinds that are written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import join
from gemlet.formats.quantize import fit_q8_0, quantize_q4_0, quantize_q8_0, to_bf16

FLOAT_KINDS = ("F32", "F16", "BF16")
BLOCK_KINDS = ("Q8_0", "Q4_0")
ENCODED_KINDS = FLOAT_KINDS + BLOCK_KINDS


def encode_rows(kind: str, values: NDArray[np.float32], *, fit: bool = False) -> NDArray[np.uint8]:
    """Float32 [rows, columns] as rows of `kind`, uint8 [rows, row_bytes].

    fit: search the scales of Q8_0, as is worth while for values from blocks of another kind.

    Raises FloatingPointError where a value is not finite, or is too large for the kind: nothing is clamped.
    """
    if not np.isfinite(values).all():
        raise FloatingPointError("holds a value that is not finite")
    if kind in BLOCK_KINDS:
        if kind == "Q4_0":
            return join(kind, quantize_q4_0(values))
        return join(kind, (fit_q8_0 if fit else quantize_q8_0)(values))
    stored: NDArray[np.generic]
    if kind == "BF16":
        stored = to_bf16(values).astype("<u2")
        infinite = bool(((stored & np.uint16(0x7F80)) == 0x7F80).any())
    else:
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(values, "<f4" if kind == "F32" else "<f2")
        infinite = not np.isfinite(stored).all()
    if infinite:
        raise FloatingPointError(f"holds {np.abs(values).max():.4g}, which is too large for {kind}")
    return np.ascontiguousarray(stored).view(np.uint8)
