"""The weights as training holds them: dense in the type of the arithmetic, or quantised as stored."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from gemlet.ops.packed import BLOCK, PANEL, Packed, unpack
from gemlet.tune.settings import Base

SLICE_ROWS = 4096
"""Rows unpacked at a time where a whole matrix in float32 would be large."""


class Matrix(Protocol):
    """A weight [rows, columns]."""

    rows: int
    columns: int

    @property
    def nbytes(self) -> int: ...

    def dense(self) -> Tensor:
        """All of it, in the type of the arithmetic."""

    def looked_up(self, ids: Tensor) -> Tensor:
        """Some rows of it."""

    def product(self, x: Tensor) -> Tensor:
        """x · weightᵀ."""


class DenseMatrix:
    """A tensor, which may be a parameter."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.rows, self.columns = values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def dense(self) -> Tensor:
        return self.values

    def looked_up(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, self.values)

    def product(self, x: Tensor) -> Tensor:
        return linear(x, self.values.to(x.dtype))


class QuantisedMatrix:
    """Codes and scales of a packed matrix, row by row; made dense where it is used, and let go again.

    codes: uint8 [rows, columns] at 8 bits, [rows, columns / 2] at 4, where a block's first half is in the low
    halves. scales and offsets: [rows, columns / 32], twice as many scales for blocks of 16.
    A value is scale * code + offset.
    """

    def __init__(self, packed: Packed, dtype: torch.dtype) -> None:
        self.rows, self.columns, self.dtype = packed.rows, packed.columns, dtype
        self.bits = 4 if packed.format.startswith("i4") else 8
        quants = packed.arrays["quants"]  # [P, B, i, r, j]
        flat = quants.transpose(0, 3, 1, 2, 4).reshape(len(quants) * PANEL, -1)
        self.codes = torch.from_numpy(np.ascontiguousarray(flat[: self.rows]))
        scales = _by_row(packed.arrays["scales"])[: self.rows]
        if "mins" in packed.arrays:
            offsets = _by_row(packed.arrays["mins"])[: self.rows]
        else:
            offsets = scales * np.float32(-8 if self.bits == 4 else -128)
        self.scales, self.offsets = torch.from_numpy(scales), torch.from_numpy(offsets)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.offsets.nbytes

    def dense(self) -> Tensor:
        return self._values(slice(None))

    def looked_up(self, ids: Tensor) -> Tensor:
        return self._values(ids)

    def product(self, x: Tensor) -> Tensor:
        product: Tensor = _QuantisedProduct.apply(x, self)
        return product

    def _values(self, rows: slice | Tensor) -> Tensor:
        codes, scales, offsets = self.codes[rows], self.scales[rows], self.offsets[rows]
        result = torch.empty((len(codes), self.columns), dtype=self.dtype)
        for start in range(0, len(codes), SLICE_ROWS):
            part = slice(start, start + SLICE_ROWS)
            result[part] = self._float(codes[part], scales[part], offsets[part])
        return result

    def _float(self, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
        if self.bits == 4:
            halves = codes.view(len(codes), -1, BLOCK // 2)
            codes = torch.cat([halves & 15, halves >> 4], -1)
        blocks = codes.view(len(codes), scales.shape[1], -1).float()
        return torch.addcmul(offsets[:, :, None], blocks, scales[:, :, None]).view(len(codes), -1)


class _QuantisedProduct(Function):
    """x · weightᵀ with a frozen weight that is made dense twice rather than kept dense between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: QuantisedMatrix) -> Tensor:
        ctx.weight = weight
        return linear(x, weight.dense())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.weight.dense(), None


def _by_row(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scales [P, B, 16] or [P, B, 2, 16] as float32 [rows, blocks or half-blocks]."""
    panels = len(array)
    rows = np.moveaxis(array, -1, 1).reshape(panels * PANEL, -1)
    return np.ascontiguousarray(rows, dtype=np.float32)


def make_matrix(packed: Packed, base: Base, dtype: torch.dtype) -> Matrix:
    """A frozen weight. Formats without blocks, and rows of other lengths than blocks fill, are held dense."""
    if base == "stored" and packed.format.startswith("i"):
        return QuantisedMatrix(packed, dtype)
    return DenseMatrix(torch.from_numpy(unpack(packed)).to(dtype))
