"""Values of a GGUF file's metadata with the format's numbers of their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
"""The format's numbers of types of values."""


@dataclass(frozen=True)
class Value:
    """A value and the format's number of its type; of an array, `item` is that of its items."""

    type: int
    value: Any
    item: int | None = None


Metadata = dict[str, Value]
