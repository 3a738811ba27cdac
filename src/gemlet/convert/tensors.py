"""Tensors on their way into a file: kind and shape are known, the bytes are made when they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import Blocks, join
from gemlet.formats.dequantize import dequantize_rows
from gemlet.formats.encode import encode_rows
from gemlet.formats.tensors import KINDS, Tensor

Rows = Callable[[int, int], NDArray[np.float32]]
"""Float32 rows from `start` to `stop` of a tensor, [stop - start, columns]."""

SLICE_VALUES = 1 << 22
"""Values in memory at a time: 16 MiB as float32."""


@dataclass(frozen=True, eq=False)
class OutputTensor:
    """A tensor to write. `shape` is (rows, columns) or (n,), `slices` gives its bytes in order, uint8."""

    kind: str
    shape: tuple[int, ...]
    slices: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def nbytes(self) -> int:
        kind = KINDS[self.kind]
        return prod(self.shape) // kind.block * kind.nbytes


def row_slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where slices of a tensor's rows begin and end; a one-dimensional tensor is one row."""
    rows = prod(shape[:-1])
    step = max(1, SLICE_VALUES // shape[-1])
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def kept(tensor: Tensor) -> OutputTensor:
    """A tensor as its file stores it, byte for byte."""
    return OutputTensor(tensor.kind, tensor.shape, lambda: iter((tensor.data,)))


def values_of(tensor: Tensor) -> Rows:
    """The stored values as float32."""
    return lambda start, stop: dequantize_rows(tensor, start, stop)


def encoded(kind: str, shape: tuple[int, ...], values: Rows) -> OutputTensor:
    """A tensor of these values as F32, F16, BF16, Q8_0 or Q4_0, encoded slice by slice.

    `slices` raises FloatingPointError for values that the kind cannot hold.
    """
    return OutputTensor(
        kind, shape, lambda: (encode_rows(kind, values(start, stop)) for start, stop in row_slices(shape))
    )


def of_blocks(kind: str, shape: tuple[int, ...], blocks: Callable[[], Blocks]) -> OutputTensor:
    """A tensor of Q8_0 or Q4_0 blocks that were made elsewhere; `blocks` is called when it is written."""
    return OutputTensor(kind, shape, lambda: iter((join(kind, blocks()),)))
