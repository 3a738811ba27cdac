"""Float values to blocks of 32 codes with one half-float scale: the rules of the Q8_0 and Q4_0 kinds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import Blocks

GROUP = 32


def _inverse(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale; 0 where that is not a number, which is where the half-float scale is 0 as well."""
    inverse = np.zeros_like(scales)
    np.divide(np.float32(1), scales, out=inverse, where=np.abs(scales) >= np.finfo(np.float32).tiny)
    return inverse


def _half(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Scales as stored. One that is too large becomes infinite, which packing refuses."""
    with np.errstate(over="ignore"):
        return scales.astype(np.float16)


def quantize_q8_0(values: NDArray[np.float32]) -> Blocks:
    """Symmetric 8-bit codes: the largest magnitude of a group becomes 127, halves round away from zero.

    `values` is float32 [rows, columns], columns a multiple of 32.
    """
    rows, columns = values.shape
    groups = values.reshape(rows, columns // GROUP, GROUP)
    scales = np.abs(groups).max(axis=-1) / np.float32(127)
    scaled = groups * _inverse(scales)[..., None]
    whole = np.trunc(scaled)
    scaled -= whole
    whole += np.trunc(scaled * np.float32(2))  # one more, away from zero, when the rest is a half or above
    whole += np.float32(128)
    return Blocks(whole.astype(np.uint8).reshape(rows, columns), 128, GROUP, _half(scales))


def fit_q8_0(values: NDArray[np.float32]) -> Blocks:
    """8-bit codes with the scale, of 64 from the usual one to 1.3 of it, that has the least square error.

    For values that lie on another grid, such as 16 steps above a minimum: some scale nearly meets it, and the
    error is 0.29 of the usual one's. Of values on no grid it is hardly less. `values` as for `quantize_q8_0`.
    """
    rows, columns = values.shape
    groups = values.reshape(-1, GROUP)
    usual = np.abs(groups).max(axis=1) / np.float32(127)
    least = np.full(len(groups), np.inf, np.float32)
    codes, scales = np.zeros(groups.shape, np.float32), _half(usual)
    for factor in np.linspace(1, 1.3, 64, dtype=np.float32):
        stored = _half(usual * factor)
        wide = stored.astype(np.float32)[:, None]
        whole = np.clip(np.rint(groups * _inverse(wide)), -127, 127)
        with np.errstate(invalid="ignore"):  # an infinite scale is no better, and the first one stays
            error = np.square(whole * wide - groups).sum(axis=1)
        better = error < least
        least[better], scales[better], codes[better] = error[better], stored[better], whole[better]
    codes += np.float32(128)
    shape = rows, columns // GROUP
    return Blocks(codes.astype(np.uint8).reshape(rows, columns), 128, GROUP, scales.reshape(shape))


def quantize_q4_0(values: NDArray[np.float32]) -> Blocks:
    """4-bit codes around 8: the value of largest magnitude of a group becomes code 0, that is -8.

    `values` is float32 [rows, columns], columns a multiple of 32.
    """
    rows, columns = values.shape
    groups = values.reshape(rows, columns // GROUP, GROUP)
    at = np.abs(groups).argmax(axis=-1)[..., None]
    scales = np.take_along_axis(groups, at, axis=-1)[..., 0] / np.float32(-8)
    scaled = groups * _inverse(scales)[..., None]
    scaled += np.float32(8.5)
    codes = np.minimum(scaled.astype(np.uint8), 15)
    return Blocks(codes.reshape(rows, columns), 8, GROUP, _half(scales))


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 values as bfloat16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: NDArray[np.uint32] = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    return rounded.astype(np.uint16)
