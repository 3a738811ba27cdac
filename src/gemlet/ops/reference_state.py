"""Keys and values of one sequence as NumPy arrays: the reference executor's `State`."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import StateError
from gemlet.ops.operations import CacheLayer, Float32

SLACK = 64
"""Positions a local layer keeps beyond its window: as far back as a state can always be trimmed."""

_MAGIC = b"gemlet-kv-numpy\0"
_VERSION = 1
_PREFIX = struct.Struct("<16sII")


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
        """The first position that a layer of a state of that length has to keep."""
        return 0 if layer.window is None else max(0, length - (layer.window - 1) - SLACK)

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
            if first > self._last_first(layer, length):
                raise StateError(f"cannot trim to {length}: a layer keeps nothing before position {first}")
        self._length = length
        self._cut()

    def save(self) -> bytes:
        header = json.dumps(self._header()).encode()
        arrays = [array.tobytes() for pair in zip(self._keys, self._values, strict=True) for array in pair]
        return b"".join([_PREFIX.pack(_MAGIC, _VERSION, len(header)), header, *arrays])

    @classmethod
    def restore(cls, data: bytes, layers: tuple[CacheLayer, ...], dtype: np.dtype[Any]) -> ReferenceState:
        """The inverse of `save`. StateError for bytes of another kind, version, shape, type or length."""
        header, offset = _read_header(data)
        state = cls(layers, dtype)
        length, first = header.get("length"), header.get("first")
        state._length = length if type(length) is int else -1
        state._first = first if isinstance(first, list) and all(type(f) is int for f in first) else []
        if header != state._header():
            raise StateError("saved state: it belongs to another model or cache type")
        if not state._is_consistent():
            raise StateError("saved state: the positions it names do not fit each other")
        for index, layer in enumerate(layers):
            shape = (state._length - state._first[index], layer.kv_heads * layer.head_dim)
            state._keys[index], offset = _read_array(data, offset, shape, dtype)
            state._values[index], offset = _read_array(data, offset, shape, dtype)
        if offset != len(data):
            raise StateError(f"saved state: {len(data) - offset} bytes too many")
        return state

    def _cut(self) -> None:
        for index, layer in enumerate(self._layers):
            first = max(self._first[index], self.first_kept(layer, self._length))
            kept = slice(first - self._first[index], self._length - self._first[index])
            # Copies, so that a state does not hold on to what it has forgotten.
            self._keys[index] = self._keys[index][kept].copy()
            self._values[index] = self._values[index][kept].copy()
            self._first[index] = first

    def _is_consistent(self) -> bool:
        return (
            self._length >= 0
            and len(self._first) == len(self._layers)
            and all(
                0 <= first <= self._last_first(layer, self._length)
                for layer, first in zip(self._layers, self._first, strict=True)
            )
        )

    @staticmethod
    def _last_first(layer: CacheLayer, length: int) -> int:
        """The latest position a layer may begin at so that the next token sees its whole window."""
        return 0 if layer.window is None else max(0, length - (layer.window - 1))

    def _header(self) -> dict[str, Any]:
        return {
            "length": self._length,
            "first": self._first,
            "type": self._dtype.name,
            "layers": [[layer.kv_heads, layer.head_dim, layer.window] for layer in self._layers],
        }


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    if len(data) < _PREFIX.size:
        raise StateError("saved state: too short")
    magic, version, size = _PREFIX.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise StateError("saved state: not one that this executor and version wrote")
    try:
        header = json.loads(data[_PREFIX.size : _PREFIX.size + size])
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise StateError("saved state: the header cannot be read")
    return header, _PREFIX.size + size


def _read_array(
    data: bytes, offset: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], int]:
    count = shape[0] * shape[1]
    end = offset + count * dtype.itemsize
    if end > len(data):
        raise StateError(f"saved state: {len(data)} bytes where at least {end} belong")
    return np.frombuffer(data, dtype, count, offset).reshape(shape).copy(), end
