"""Safetensors files: a JSON header, then the arrays. Read by mapping, with every header field checked.

The `safetensors` library opens what is written here. Reading is done here because its NumPy side copies, has
no bfloat16, and reports a broken file without the field that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ModelFileError
from gemlet.formats.files import MAX_JSON_BYTES, map_file, parse_json, replaced_file
from gemlet.formats.tensors import Tensor

Array = NDArray[Any]
Layout = tuple[np.dtype[Any], tuple[int, ...]]

MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
ALIGNMENT = 64
_PADDING = "__padding__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in reversed(_DTYPES.items())} | {np.dtype("<u2"): "U16"}


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint (F32, F16, BF16) and the file's metadata. Data stays mapped and unread.

    Raises ModelFileError naming the file, the field and the problem.
    """
    data, entries, metadata = _parse(path)
    tensors = {}
    for name, (dtype, shape, start, end) in entries.items():
        if dtype not in ("F32", "F16", "BF16") or not shape:
            what = f"has the type {dtype}; supported are F32, F16, BF16" if shape else "is a single number"
            raise ModelFileError(path, f"tensor {name!r}", what)
        tensors[name] = Tensor(name, dtype, shape, data[start:end])
    return tensors, metadata


def read_arrays(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file as mapped read-only NumPy arrays (BF16 as uint16), and its metadata.

    Raises ModelFileError naming the file, the field and the problem.
    """
    data, entries, metadata = _parse(path)
    arrays = {
        name: data[start:end].view(_DTYPES[dtype]).reshape(shape)
        for name, (dtype, shape, start, end) in entries.items()
        if not name.startswith(_PADDING)
    }
    return arrays, metadata


Entry = tuple[str, tuple[int, ...], int, int]


def _parse(path: str | Path) -> tuple[NDArray[np.uint8], dict[str, Entry], dict[str, str]]:
    """The file's bytes; per tensor its type, shape, and where it begins and ends; the metadata."""
    data = map_file(path, at_least=10)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_JSON_BYTES, len(data) - 8):
        raise ModelFileError(path, "header length", f"of {length} bytes cannot be")
    header = parse_json(path, "header", data[8 : 8 + length].tobytes())
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(path, "header '__metadata__'", "is not a mapping from text to text")
    if len(header) > MAX_TENSORS:
        raise ModelFileError(path, "header", f"names {len(header)} tensors, more than {MAX_TENSORS}")
    base = 8 + length
    entries = {name: _entry(path, name, value, base) for name, value in header.items()}
    end = base
    for name, (_, _, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise ModelFileError(path, f"tensor {name!r}", "does not begin where the tensor before it ends")
        end = stop
    if end != len(data):
        raise ModelFileError(path, "file", f"has {len(data)} bytes where its header describes {end}")
    return data, entries, metadata


def _entry(path: str | Path, name: str, value: Any, base: int) -> Entry:
    field = f"tensor {name!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(path, field, "is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ModelFileError(path, field, f"has the unknown type {str(dtype)[:20]!r}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(path, field, "has an impossible shape")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ModelFileError(path, field, "has impossible data_offsets")
    start, end = offsets
    if end - start != prod(shape) * _DTYPES[dtype].itemsize:
        raise ModelFileError(path, field, f"has {end - start} bytes, which is not what its shape needs")
    return dtype, tuple(shape), base + start, base + end


def _sizes(value: Any) -> bool:
    """Whether a JSON value is a list of non-negative integers that a file can be made of."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def checkpoint_header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """What stands before the data of a checkpoint: of each tensor its kind (F32, F16, BF16), shape and bytes.

    The data follows in the same order without a gap.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, nbytes) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


class Writer:
    """Writes a file whose arrays are known by type and shape before their contents come, in any order.

    Every array begins at a multiple of 64 bytes. `metadata` may change until `finish`, but not grow.
    """

    def __init__(self, file: IO[bytes], arrays: Mapping[str, Layout], metadata: Mapping[str, str]) -> None:
        self._file = file
        self._header: dict[str, Any] = {}
        self._places: dict[str, tuple[int, int]] = {}  # offset in the data area, bytes per first index
        at = 0
        for name, (dtype, shape) in arrays.items():
            if at % ALIGNMENT:
                at = self._describe(f"{_PADDING}{at}", np.dtype("u1"), (-at % ALIGNMENT,), at)
            self._places[name] = at, prod(shape[1:]) * dtype.itemsize
            at = self._describe(name, dtype, shape, at)
        self._end = at
        self._base = -(-(8 + len(self._text(metadata))) // ALIGNMENT) * ALIGNMENT

    def _describe(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], at: int) -> int:
        end = at + prod(shape) * dtype.itemsize
        self._header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [at, end]}
        return end

    def _text(self, metadata: Mapping[str, str]) -> bytes:
        return json.dumps({"__metadata__": dict(metadata)} | self._header).encode()

    def write(self, name: str, array: Array, first: int = 0) -> None:
        """Store `array`, which is the part of array `name` that begins at index `first` of its first axis."""
        offset, stride = self._places[name]
        self._file.seek(self._base + offset + first * stride)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header, and so make the file readable."""
        text = self._text(metadata)
        if 8 + len(text) > self._base:
            raise ValueError("the metadata has grown")
        self._file.truncate(self._base + self._end)
        self._file.seek(0)
        self._file.write((self._base - 8).to_bytes(8, "little") + text.ljust(self._base - 8))


def write_safetensors(path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays to a file that takes the place of `path` when it is complete."""
    with replaced_file(Path(path)) as file:
        writer = Writer(file, {name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
        for name, array in arrays.items():
            writer.write(name, array)
        writer.finish(metadata)
