"""Keys and values of one sequence as NumPy arrays: the reference executor's `State`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import StateError
from gemlet.ops.batch import PAGE, Page, pages_for
from gemlet.ops.operations import CacheLayer, Float32

SLACK = 64
"""Positions a local layer keeps beyond its window: as far back as a state can always be trimmed."""

_CHECKSUM_BYTES = 16


class ReferenceState:
    """Per layer, keys and values [positions, kv_heads * head_dim] in the cache's type.

    Row 0 of a layer is position `_first[layer]`; local layers forget what neither its window nor SLACK needs.
    """

    def __init__(self, layers: tuple[CacheLayer, ...], dtype: np.dtype[Any]) -> None:
        self._layers = layers
        self._dtype = dtype
        self._length = 0
        self._first = [0] * len(layers)
        self._keys = [np.zeros((0, layer.kv_heads * layer.head_dim), dtype) for layer in layers]
        self._values = [np.zeros((0, layer.kv_heads * layer.head_dim), dtype) for layer in layers]

    @staticmethod
    def first_kept(layer: CacheLayer, length: int) -> int:
        """The first position that a layer of a state of that length has to keep: a page's first."""
        return 0 if layer.window is None else max(0, length - (layer.window - 1) - SLACK) // PAGE * PAGE

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self._keys, *self._values))

    def fits(self, layers: tuple[CacheLayer, ...], dtype: np.dtype[Any]) -> bool:
        """Whether the state is of that shape and type."""
        return self._layers == layers and self._dtype == dtype

    def store(self, layer: int, k: Float32, v: Float32) -> tuple[int, Float32, Float32]:
        """Append rows to a layer, rounded to the cache's type.

        Returns the first position the layer holds, and all its keys and values. The length stays until
        `advance`: rows of a step that failed half-way are overwritten by the next one.
        """
        kept = self._length - self._first[layer]
        self._keys[layer] = np.concatenate([self._keys[layer][:kept], k.astype(self._dtype)])
        self._values[layer] = np.concatenate([self._values[layer][:kept], v.astype(self._dtype)])
        keys, values = self._keys[layer].astype(np.float32), self._values[layer].astype(np.float32)
        return self._first[layer], keys, values

    def advance(self, rows: int) -> None:
        """End a step of that many rows: count them and forget what local layers need no longer."""
        self._length += rows
        self._cut()

    def copy(self) -> ReferenceState:
        other = ReferenceState(self._layers, self._dtype)
        other._length = self._length
        other._first = list(self._first)
        other._keys = list(self._keys)  # arrays are replaced, never written to
        other._values = list(self._values)
        return other

    def trim(self, length: int) -> None:
        if not 0 <= length <= self._length:
            raise StateError(f"cannot trim a state of {self._length} positions to {length}")
        for layer, first in zip(self._layers, self._first, strict=True):
            if first > self.last_first(layer, length):
                raise StateError(f"cannot trim to {length}: a layer keeps nothing before position {first}")
        self._length = length
        self._cut()

    @property
    def first_page(self) -> int:
        return max((pages_for(first) for first in self._first), default=0)

    def page(self, index: int, local: bool) -> ReferencePage:
        start, end = index * PAGE, min((index + 1) * PAGE, self._length)
        if not 0 <= start < end or (local and index < self.first_page):
            raise StateError(f"a state of {self._length} positions does not hold page {index}")
        arrays = []
        for number, layer in enumerate(self._layers):
            if (layer.window is not None) == local:
                rows = slice(start - self._first[number], end - self._first[number])
                arrays += [self._keys[number][rows].copy(), self._values[number][rows].copy()]
        return ReferencePage(self._layers, self._dtype, Place(index, local, end - start), tuple(arrays))

    def _cut(self) -> None:
        for index, layer in enumerate(self._layers):
            first = max(self._first[index], self.first_kept(layer, self._length))
            kept = slice(first - self._first[index], self._length - self._first[index])
            # Copies, so that a state does not hold on to what it has forgotten.
            self._keys[index] = self._keys[index][kept].copy()
            self._values[index] = self._values[index][kept].copy()
            self._first[index] = first

    @staticmethod
    def last_first(layer: CacheLayer, length: int) -> int:
        """The latest position a layer may begin at so that the next token sees its whole window."""
        return 0 if layer.window is None else max(0, length - (layer.window - 1))


@dataclass(frozen=True)
class Place:
    """Where a page belongs: which one of the sequence, in which layers, and how many positions it holds."""

    index: int
    local: bool
    rows: int


class ReferencePage:
    """Keys and values [rows, kv_heads * head_dim] of each layer of a kind, in the order of the layers."""

    def __init__(
        self,
        layers: tuple[CacheLayer, ...],
        dtype: np.dtype[Any],
        place: Place,
        arrays: tuple[NDArray[Any], ...],
    ) -> None:
        self.place = place
        self.arrays = arrays
        self._shape = _shape(layers, dtype)

    @property
    def rows(self) -> int:
        return self.place.rows

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def fits(self, layers: tuple[CacheLayer, ...], dtype: np.dtype[Any]) -> bool:
        """Whether the page is of a state of that shape and type."""
        return self._shape == _shape(layers, dtype)

    def save(self) -> bytes:
        body = b"".join(array.tobytes() for array in self.arrays)
        return _checksum(self._shape, self.place, body) + body

    @classmethod
    def restore(
        cls, layers: tuple[CacheLayer, ...], dtype: np.dtype[Any], place: Place, data: bytes | memoryview
    ) -> ReferencePage:
        """The inverse of `save`. StateError for bytes of another shape, type or place, or altered ones."""
        body = bytes(data[_CHECKSUM_BYTES:])
        kind = [layer for layer in layers if (layer.window is not None) == place.local]
        size = 2 * place.rows * sum(layer.kv_heads * layer.head_dim for layer in kind) * dtype.itemsize
        expected = _checksum(_shape(layers, dtype), place, body)
        if len(body) != size or bytes(data[:_CHECKSUM_BYTES]) != expected:
            raise StateError("saved page: it was altered, or belongs elsewhere")
        arrays, at = [], 0
        for width in [layer.kv_heads * layer.head_dim for layer in kind for _ in ("keys", "values")]:
            arrays.append(np.frombuffer(body, dtype, place.rows * width, at).reshape(-1, width))
            at += arrays[-1].nbytes
        return cls(layers, dtype, place, tuple(arrays))


def first_needed_page(layers: tuple[CacheLayer, ...], length: int) -> int:
    """The first page of which a sequence of that length needs the local layers to go on."""
    local = [layer for layer in layers if layer.window is not None]
    return min([pages_for(length), *(ReferenceState.last_first(layer, length) // PAGE for layer in local)])


def join(
    layers: tuple[CacheLayer, ...],
    dtype: np.dtype[Any],
    pages: Sequence[Page],
    local_pages: Sequence[Page],
    length: int,
) -> ReferenceState:
    """The sequence of `length` positions in these pages. StateError when they are not all it needs."""
    count = pages_for(length)
    first = count - len(local_pages)
    if length < 0 or len(pages) != count or not 0 <= first <= first_needed_page(layers, length):
        raise StateError("a sequence lacks pages")
    state = ReferenceState(layers, dtype)
    state._length = length
    for local, start, kind in ((False, 0, pages), (True, first, local_pages)):
        arrays = []
        for index, page in enumerate(kind, start):
            if not isinstance(page, ReferencePage) or not page.fits(layers, dtype):
                raise StateError("a page belongs to another model or executor")
            rows = min(PAGE, length - index * PAGE)
            if (page.place.index, page.place.local) != (index, local) or page.rows < rows:
                raise StateError(f"page {index} does not belong there")
            arrays.append([array[:rows] for array in page.arrays])
        numbers = [i for i, layer in enumerate(layers) if (layer.window is not None) == local]
        for i, number in enumerate(numbers):
            state._first[number] = min(start * PAGE, length)
            if arrays:
                state._keys[number] = np.concatenate([page[2 * i] for page in arrays])
                state._values[number] = np.concatenate([page[2 * i + 1] for page in arrays])
    return state


def _shape(layers: tuple[CacheLayer, ...], dtype: np.dtype[Any]) -> tuple[object, ...]:
    return dtype.name, *((layer.kv_heads, layer.head_dim, layer.window) for layer in layers)


def _checksum(shape: tuple[object, ...], place: Place, body: bytes) -> bytes:
    return hashlib.blake2b(repr((shape, place)).encode() + body, digest_size=_CHECKSUM_BYTES).digest()
