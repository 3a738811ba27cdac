"""A set of token ids: those that a constraint allows at one place of an answer."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Allowed:
    """`bits`: uint8, token id i at bit i % 8 of byte i // 8. Not changed from now on."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self.bits = bits

    def holds(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Of each id, whether it is allowed."""
        held: NDArray[np.bool_] = (self.bits[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1 != 0
        return held

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """All of them, ascending."""
        places = np.flatnonzero(self.bits)  # a few bytes, where few tokens are allowed
        byte, bit = np.nonzero(np.unpackbits(self.bits[places], bitorder="little").reshape(-1, 8))
        return places[byte] * 8 + bit
