"""A low-rank adapter added to the weights: in float32, row by row, as it is computed beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.tensors import Rows, values_of
from gemlet.formats.tensors import Tensor
from gemlet.model.adapters import AdapterFile
from gemlet.model.sources import Source
from gemlet.ops.operations import LowRank
from gemlet.ops.packed import unpack


def merged_values(source: Source, adapter: AdapterFile) -> dict[str, Rows]:
    """The values of every matrix that the adapter changes: w + scale * b·a, by canonical name."""
    return {name: _sum(source.tensors[name], part) for name, part in adapter.parts.items()}


def _sum(tensor: Tensor, part: LowRank) -> Rows:
    base = values_of(tensor)

    def rows(start: int, stop: int) -> NDArray[np.float32]:
        change: NDArray[np.float32] = (unpack(part.b)[start:stop] * np.float32(part.scale)) @ unpack(part.a)
        return base(start, stop) + change

    return rows


def folded(part: LowRank) -> Mapping[str, NDArray[np.float32]]:
    """The two matrices as float32, `a` and `b`, the scale multiplied into `b`."""
    return {"a": unpack(part.a), "b": unpack(part.b) * np.float32(part.scale)}
