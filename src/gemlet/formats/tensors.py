"""Tensors as files store them, and the storage kinds gemlet reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kind:
    """A storage kind: `block` values share `nbytes` bytes; `gguf_id` is its number in GGUF files."""

    name: str
    gguf_id: int
    block: int
    nbytes: int

    @property
    def is_float(self) -> bool:
        """Whether each value is stored by itself, as a floating point number."""
        return self.block == 1


KINDS = {
    kind.name: kind
    for kind in (
        Kind("F32", 0, 1, 4),
        Kind("F16", 1, 1, 2),
        Kind("Q4_0", 2, 32, 18),
        Kind("Q4_1", 3, 32, 20),
        Kind("Q5_0", 6, 32, 22),
        Kind("Q5_1", 7, 32, 24),
        Kind("Q8_0", 8, 32, 34),
        Kind("Q4_K", 12, 256, 144),
        Kind("Q5_K", 13, 256, 176),
        Kind("Q6_K", 14, 256, 210),
        Kind("BF16", 30, 1, 2),
    )
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor inside a file. `shape` is (rows, columns) or (n,); `data` is uint8, flat, read-only, mapped.

    A row is contiguous: rows follow each other, and blocks of a quantised kind run along a row.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        kind = KINDS[self.kind]
        return self.columns // kind.block * kind.nbytes

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The bytes of some rows, uint8 [rows, row_bytes]; a one-dimensional tensor is one row."""
        return self.data.reshape(-1, self.row_bytes)[start:stop]
