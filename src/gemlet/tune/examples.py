"""What a network is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence as the model reads it. ids: int32 [n], with its one BOS. learned: bool [n], true for the
    tokens that are to be predicted, never the first. source: file and line, for messages."""

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    source: str


@dataclass(frozen=True, eq=False)
class Pair:
    """A preference: two sequences that begin with the same prompt; only the answers are learned."""

    chosen: Example
    rejected: Example
