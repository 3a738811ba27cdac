"""Tensors on their way into a file: kind and shape are known, the bytes are made when they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ModelFileError
from gemlet.formats.blocks import Blocks, join
from gemlet.formats.dequantize import dequantize_rows
from gemlet.formats.encode import encode_rows
from gemlet.formats.tensors import KINDS, Tensor

Progress = Callable[[int, int], None]
"""Called with bytes written and bytes in all."""

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


def encoded(kind: str, shape: tuple[int, ...], values: Rows, *, fit: bool = False) -> OutputTensor:
    """A tensor of these values as F32, F16, BF16, Q8_0 or Q4_0, encoded slice by slice.

    fit: as for `encode_rows`. `slices` raises FloatingPointError for values that the kind cannot hold.
    """

    def slices() -> Iterator[NDArray[np.uint8]]:
        return (encode_rows(kind, values(start, stop), fit=fit) for start, stop in row_slices(shape))

    return OutputTensor(kind, shape, slices)


def of_blocks(kind: str, shape: tuple[int, ...], blocks: Callable[[], Blocks]) -> OutputTensor:
    """A tensor of Q8_0 or Q4_0 blocks that were made elsewhere; `blocks` is called when it is written."""
    return OutputTensor(kind, shape, lambda: iter((join(kind, blocks()),)))


def total_bytes(tensors: Mapping[str, OutputTensor]) -> int:
    """Bytes of all the data."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_data(
    file: IO[bytes],
    tensors: Mapping[str, OutputTensor],
    where: str,
    step: Callable[[int], None],
    alignment: int = 1,
) -> dict[str, str]:
    """Append the tensors' bytes, each at a multiple of `alignment`; returns the sha256 of each.

    where: the model that they come from, for messages. step: called with the size of each piece written.
    Raises ModelFileError naming the tensor for values that its kind cannot hold.
    """
    digests = {}
    for name, tensor in tensors.items():
        file.write(b"\0" * (-file.tell() % alignment))
        digest, size = hashlib.sha256(), 0
        for part in _slices(tensor, name, where):
            data = np.ascontiguousarray(part).reshape(-1).data
            file.write(data)
            digest.update(data)
            size += len(data)
            step(len(data))
        if size != tensor.nbytes:
            raise ValueError(f"{name} has {size} bytes where {tensor.nbytes} were promised")
        digests[name] = digest.hexdigest()
    file.write(b"\0" * (-file.tell() % alignment))
    return digests


def _slices(tensor: OutputTensor, name: str, where: str) -> Iterator[NDArray[np.uint8]]:
    try:
        yield from tensor.slices()
    except FloatingPointError as error:
        hint = "the types f32 and bf16 hold every finite value"
        raise ModelFileError(where, f"tensor {name!r}", str(error), hint=hint) from None


def counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """A `step` for `write_data` that adds up and reports."""
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return step


def differences(
    found: Mapping[str, Tensor], tensors: Mapping[str, OutputTensor], digests: Mapping[str, str]
) -> list[str]:
    """Names of tensors that are not, to the last byte, what `write_data` wrote; a missing one is one."""
    return [
        name
        for name in [*tensors, *(name for name in found if name not in tensors)]
        if name not in found
        or name not in tensors
        or (found[name].kind, found[name].shape) != (tensors[name].kind, tensors[name].shape)
        or hashlib.sha256(found[name].data.data).hexdigest() != digests[name]
    ]
