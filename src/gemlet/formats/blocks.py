"""Quantised kinds taken apart and put together: codes, and per group of columns a scale, perhaps a minimum.

This is the one place that knows the bit layouts. A value is scale * (code - zero), or scale * code + minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.tensors import KINDS

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows of quantised values.

    `codes` uint8 [rows, columns]; `scales` float16 or float32 [rows, columns / group]; `mins` float32 of the
    same shape, or None for the kinds that are symmetric around the code `zero`.
    """

    codes: NDArray[np.uint8]
    zero: int
    group: int
    scales: Array
    mins: NDArray[np.float32] | None = None

    def values(self) -> NDArray[np.float32]:
        """The float32 values, [rows, columns]. A scale that is not finite gives values that are not."""
        grouped = self.codes.reshape(*self.scales.shape, self.group).astype(np.float32)
        if self.zero:
            grouped -= np.float32(self.zero)
        with np.errstate(invalid="ignore", over="ignore"):
            grouped *= self.scales[..., None].astype(np.float32)
            if self.mins is not None:
                grouped += self.mins[..., None]
        return grouped.reshape(self.codes.shape)


def split(kind: str, rows: NDArray[np.uint8]) -> Blocks:
    """Take rows of a quantised kind apart. `rows` is uint8 [rows, row_bytes].

    A scale that is not finite is passed on; whoever uses it refuses it.
    """
    blocks = np.ascontiguousarray(rows).reshape(rows.shape[0], -1, KINDS[kind].nbytes)
    with np.errstate(invalid="ignore"):
        return _SPLITTERS[kind](blocks)


def _float16(blocks: Array, at: int) -> NDArray[np.float16]:
    """The half float at byte `at` of every block, [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]


def _nibbles(packed: Array) -> NDArray[np.uint8]:
    """Bytes [..., n] to codes [..., 2n]: the low halves of all bytes, then the high halves."""
    half = packed.shape[-1]
    codes = np.empty((*packed.shape[:-1], 2 * half), np.uint8)
    np.bitwise_and(packed, 15, out=codes[..., :half])
    np.right_shift(packed, 4, out=codes[..., half:])
    return codes


def _flat(codes: Array) -> NDArray[np.uint8]:
    """Codes [rows, ...] to [rows, columns]."""
    return codes.reshape(codes.shape[0], -1)


def _q4_0(blocks: Array) -> Blocks:
    return Blocks(_flat(_nibbles(blocks[..., 2:])), 8, 32, _float16(blocks, 0))


def _q4_1(blocks: Array) -> Blocks:
    scales, mins = (_float16(blocks, at).astype(np.float32) for at in (0, 2))
    return Blocks(_flat(_nibbles(blocks[..., 4:])), 0, 32, scales, mins)


def _five_bits(high: Array, low: Array) -> NDArray[np.uint8]:
    """Codes of 5 bits: bit i of the four bytes `high` is the top bit of code i, `low` holds the others."""
    codes = _nibbles(low)
    codes |= np.unpackbits(high, axis=-1, bitorder="little") << 4
    return codes


def _q5_0(blocks: Array) -> Blocks:
    return Blocks(_flat(_five_bits(blocks[..., 2:6], blocks[..., 6:])), 16, 32, _float16(blocks, 0))


def _q5_1(blocks: Array) -> Blocks:
    scales, mins = (_float16(blocks, at).astype(np.float32) for at in (0, 2))
    return Blocks(_flat(_five_bits(blocks[..., 4:8], blocks[..., 8:])), 0, 32, scales, mins)


def _q8_0(blocks: Array) -> Blocks:
    return Blocks(_flat(blocks[..., 2:] ^ 128), 128, 32, _float16(blocks, 0))


def _k_scales(blocks: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and minima of the eight groups of a Q4_K or Q5_K super-block, [rows, groups] each.

    Twelve bytes hold eight 6-bit scales and eight 6-bit minima. The first four of either kind are the low six
    bits of bytes 0-3 and 4-7; the last four are halves of bytes 8-11, their top two bits those of bytes 0-7.
    """
    first, second, third = (blocks[..., at : at + 4] for at in (4, 8, 12))
    shape = blocks.shape[0], -1
    scale = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1).astype(np.float32)
    minimum = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1).astype(np.float32)
    scale *= _float16(blocks, 0)[..., None].astype(np.float32)
    minimum *= _float16(blocks, 2)[..., None].astype(np.float32)
    return scale.reshape(shape), (-minimum).reshape(shape)


def _q4_k(blocks: Array) -> Blocks:
    low = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    return Blocks(_flat(_nibbles(low)), 0, 32, *_k_scales(blocks))


def _q5_k(blocks: Array) -> Blocks:
    codes = _nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    bits = np.arange(8, dtype=np.uint8)[:, None]
    codes |= (blocks[..., None, 16:48] >> bits & 1) << 4  # bit g of byte i belongs to column i of group g
    return Blocks(_flat(codes), 0, 32, *_k_scales(blocks))


def _q6_k(blocks: Array) -> Blocks:
    shape = blocks.shape[:2]
    codes = _nibbles(blocks[..., :128].reshape(*shape, 2, 64)).reshape(*shape, 2, 4, 32)
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    codes |= (blocks[..., 128:192].reshape(*shape, 2, 1, 32) >> shifts & 3) << 4
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    scales *= _float16(blocks, 208)[..., None].astype(np.float32)
    return Blocks(_flat(codes), 32, 16, scales.reshape(shape[0], -1))


_SPLITTERS: dict[str, Callable[[Array], Blocks]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def join(kind: str, blocks: Blocks) -> NDArray[np.uint8]:
    """The rows of a quantised kind that `split` takes apart into these blocks, uint8 [rows, row_bytes].

    Q8_0 and Q4_0. Raises ValueError for blocks of another shape of kind, FloatingPointError for a scale that
    is not finite.
    """
    zero = {"Q8_0": 128, "Q4_0": 8}[kind]
    scales = blocks.scales
    if (blocks.zero, blocks.group, blocks.mins) != (zero, 32, None) or scales.dtype != np.float16:
        raise ValueError(f"the blocks are not those of {kind}")
    if not np.isfinite(scales).all():
        raise FloatingPointError(f"a value is too large for {kind}")
    rows, groups = scales.shape
    codes = blocks.codes.reshape(rows, groups, 32)
    packed = np.empty((rows, groups, KINDS[kind].nbytes), np.uint8)
    packed[..., :2] = np.ascontiguousarray(scales, "<f2")[..., None].view(np.uint8)
    packed[..., 2:] = codes ^ 128 if kind == "Q8_0" else codes[..., :16] | codes[..., 16:] << 4
    return packed.reshape(rows, -1)
