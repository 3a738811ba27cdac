"""GGUF files, versions 2 and 3, little-endian: metadata and tensors, checked before anything is allocated.

The file is untrusted. Every count is compared with the bytes that are left before it is used: work and memory
are bounded by the size of the file and by the limits below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ModelFileError
from gemlet.formats.files import map_file
from gemlet.formats.tensors import KINDS, Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16
MAX_KEYS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_METADATA_BYTES = 1 << 28
MAX_STRINGS = 1 << 21
MAX_ARRAY_DEPTH = 4
MAX_INNER_ARRAYS = 1 << 16
MAX_ALIGNMENT = 1 << 16
MAX_DIMENSIONS = 4
MAX_VALUES = 1 << 40

CUT_OFF = "it may be an incomplete download: fetch it again"

_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_KIND_OF_ID = {kind.gguf_id: kind for kind in KINDS.values()}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, eq=False)
class Strings:
    """An array of strings: `text` uint8, all of them joined, and `ends` int64, where each one ends."""

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of one string, as the file holds them."""
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A parsed file. Metadata values are int, float, bool, str; arrays are NumPy's, `Strings`, or lists.

    `types` has the format's number of the type of each metadata value, 9 for arrays.
    """

    path: str
    metadata: Mapping[str, Any]
    types: Mapping[str, int]
    tensors: Mapping[str, Tensor]


def read_gguf(path: str | Path) -> GgufFile:
    """Parse a GGUF file. Tensor data stays mapped and unread.

    Raises ModelFileError naming the file, the field and the problem.
    """
    return _Reader(str(path), map_file(path, at_least=24)).file()


class _Reader:
    """A cursor over the file's bytes. `field` names what is being read, for messages."""

    def __init__(self, path: str, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.data = data
        self.view = data.data
        self.size = len(data)
        self.at = 0
        self.field = "header"
        self.inner_arrays = 0

    def fail(self, problem: str, hint: str | None = None) -> NoReturn:
        raise ModelFileError(self.path, self.field, problem, hint=hint)

    def need(self, nbytes: int) -> int:
        """Move past the next bytes; returns where they begin."""
        start = self.at
        if nbytes > self.size - start:
            self.fail(f"runs past the end of the file ({self.size} bytes)", CUT_OFF)
        self.at = start + nbytes
        return start

    def u32(self) -> int:
        return int(_U32.unpack_from(self.view, self.need(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.view, self.need(8))[0])

    def count(self, most: int, smallest: int) -> int:
        """A number of entries of at least `smallest` bytes each."""
        count = self.u64()
        if count > most:
            self.fail(f"counts {count} entries, more than {most}")
        if count * smallest > self.size - self.at:
            self.fail(f"counts {count} entries, more than the file can hold", CUT_OFF)
        return count

    def string(self, most: int) -> str:
        length = self.u64()
        if length > most:
            self.fail(f"has a string of {length} bytes, more than {most}")
        start = self.need(length)
        try:
            return str(self.view[start : self.at], "utf-8")
        except UnicodeDecodeError:
            self.fail("has a string that is not UTF-8")

    def name(self) -> str:
        name = self.string(MAX_NAME_BYTES)
        if not name:
            self.fail("has an empty name")
        return name

    def file(self) -> GgufFile:
        if bytes(self.view[self.need(4) : 4]) != MAGIC:
            self.fail("is not a GGUF file (wrong magic)")
        version = self.u32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            endian = " in big-endian byte order" if swapped in VERSIONS else ""
            self.fail(
                f"has version {swapped if endian else version}{endian}; supported are 2 and 3, little-endian"
            )
        self.field = "tensor count"
        tensors = self.count(MAX_TENSORS, smallest=32)
        self.field = "metadata count"
        keys = self.count(MAX_KEYS, smallest=13)
        metadata, types = self.metadata(keys)
        entries = [self.entry() for _ in range(tensors)]
        return GgufFile(self.path, metadata, types, self.tensors(entries, self.alignment(metadata)))

    def metadata(self, count: int) -> tuple[dict[str, Any], dict[str, int]]:
        """The values by key, and the number of each value's type."""
        start = self.at
        metadata: dict[str, Any] = {}
        types: dict[str, int] = {}
        for index in range(count):
            self.field = f"metadata key {index}"
            key = self.name()
            self.field = f"metadata {key!r}"
            if key in metadata:
                self.fail("appears twice")
            types[key] = self.u32()
            metadata[key] = self.value(types[key])
            if self.at - start > MAX_METADATA_BYTES:
                self.fail(f"ends beyond the limit of {MAX_METADATA_BYTES} bytes of metadata")
        return metadata, types

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string(MAX_METADATA_BYTES)
        if kind == _ARRAY:
            return self.array(depth=1)
        return self.numbers(kind, 1)[0].item()

    def array(self, depth: int) -> Any:
        kind = self.u32()
        if kind == _STRING:
            return self.strings(self.count(MAX_STRINGS, smallest=8))
        if kind != _ARRAY:
            return self.numbers(kind, self.count(MAX_METADATA_BYTES, smallest=self.dtype(kind).itemsize))
        if depth == MAX_ARRAY_DEPTH:
            self.fail(f"has arrays nested deeper than {MAX_ARRAY_DEPTH}")
        count = self.count(MAX_INNER_ARRAYS, smallest=12)
        self.inner_arrays += count
        if self.inner_arrays > MAX_INNER_ARRAYS:
            self.fail(f"has more than {MAX_INNER_ARRAYS} arrays inside arrays")
        return [self.array(depth + 1) for _ in range(count)]

    def dtype(self, kind: int) -> np.dtype[Any]:
        if kind not in _NUMBERS:
            self.fail(f"has the unknown value type {kind}")
        return _NUMBERS[kind]

    def numbers(self, kind: int, count: int) -> NDArray[Any]:
        dtype = self.dtype(kind)
        raw = self.data[self.need(count * dtype.itemsize) : self.at]
        if kind == _BOOL and raw.size and raw.max() > 1:
            self.fail("has a truth value that is neither 0 nor 1")
        return raw.view(dtype)

    def strings(self, count: int) -> Strings:
        """An array of `count` strings.

        Each length is needed to find the next one. Strings are nearly always shorter than 256 bytes, so the
        loop looks at the low byte of each length only; the other bytes are checked afterwards, all at once.
        """
        start = self.at
        starts = self.short_starts(count)
        if starts is None:
            self.at = start
            starts = self.long_starts(count)
        area = self.data[start : self.at]
        ends = np.append(starts[1:], len(area))  # of a string and its length, from the start of the area
        characters = np.ones(len(area), bool)
        for byte in range(8):
            characters[starts + byte] = False
        return Strings(area[characters], ends - np.arange(8, 8 * count + 8, 8) if count else starts)

    def short_starts(self, count: int) -> NDArray[np.int64] | None:
        """Where each length begins, from the start of the area; None if a string is 256 bytes or longer."""
        start, view = self.at, self.view
        at = start
        starts: list[int] = []
        add = starts.append
        try:
            for _ in range(count):
                add(at)
                at += view[at] + 8
        except IndexError:
            return None
        if at > self.size:
            return None
        self.at = at
        offsets = np.array(starts, np.int64)
        for byte in range(1, 8):
            if self.data[offsets + byte].any():
                return None
        return offsets - start

    def long_starts(self, count: int) -> NDArray[np.int64]:
        start = self.at
        starts = np.empty(count, np.int64)
        for index in range(count):
            starts[index] = self.at - start
            self.need(self.u64())
            if self.at - start > MAX_METADATA_BYTES:
                self.fail(f"is longer than {MAX_METADATA_BYTES} bytes")
        return starts

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        self.field = "metadata 'general.alignment'"
        value = metadata.get("general.alignment", 32)
        if type(value) is not int or not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
            self.fail(f"must be a power of two from 8 to {MAX_ALIGNMENT}")
        return value

    def entry(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """One line of the tensor table: name, kind, shape, offset in the data area, bytes."""
        self.field = "tensor table"
        name = self.name()
        self.field = f"tensor {name!r}"
        dimensions = self.u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.fail(f"has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        shape = tuple(self.u64() for _ in range(dimensions))[::-1]
        if 0 in shape or prod(shape) > MAX_VALUES:
            self.fail(f"has the impossible shape {list(shape)}")
        number = self.u32()
        kind = _KIND_OF_ID.get(number)
        if kind is None:
            self.fail(f"has the storage kind {number}; supported are {', '.join(KINDS)}")
        if shape[-1] % kind.block:
            self.fail(f"has rows of {shape[-1]} values, which do not fill {kind.name} blocks of {kind.block}")
        return name, kind.name, shape, self.u64(), prod(shape) // kind.block * kind.nbytes

    def tensors(
        self, entries: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, Tensor]:
        base = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        end, last = 0, ""
        for name, kind, shape, offset, nbytes in sorted(entries, key=lambda entry: entry[3]):
            self.field = f"tensor {name!r}"
            if name in tensors:
                self.fail("appears twice")
            if offset % alignment:
                self.fail(f"has the offset {offset}, which is not a multiple of {alignment}")
            if offset < end:
                self.fail(f"overlaps tensor {last!r}")
            end, last = offset + nbytes, name
            if base + end > self.size:
                self.fail(f"ends {base + end - self.size} bytes past the end of the file", CUT_OFF)
            tensors[name] = Tensor(name, kind, shape, self.data[base + offset : base + end])
        return {entry[0]: tensors[entry[0]] for entry in entries}
