"""The kernels' weight layout: panels of 16 rows, interleaved so that one vector register holds 16 rows.

`pack` writes it, `unpack` reads it back to float32 and is its specification.

| format | arrays | value |
|---|---|---|
| i4 | quants uint8 [P,B,4,16,4], scales float16 [P,B,16] | scale * (code - 8) |
| i8 | quants uint8 [P,B,8,16,4], scales float16 [P,B,16] | scale * (code - 128) |
| i4m | quants as i4, scales and mins float32 [P,B,16] | scale * code + min |
| i8m | quants as i8, scales and mins float32 [P,B,16] | scale * code + min |
| i8h | quants as i8, scales float32 [P,B,2,16] | scale * (code - 128) |
| f32 f16 bf16 | values float32, uint16, uint16 [P,columns,16] | the value |

P = rows / 16 rounded up (rows beyond the end are zero bytes), B = columns / 32.
8-bit quants [p,b,i,r,j] hold the code of row 16p + r and column 32b + 4i + j.
4-bit quants hold in the low half column 32b + 4i + j, in the high half column 32b + 16 + 4i + j.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.blocks import Blocks, split
from gemlet.formats.dequantize import dequantize_rows, float_values
from gemlet.formats.quantize import quantize_q4_0, quantize_q8_0, to_bf16
from gemlet.formats.tensors import KINDS, Tensor

Array = NDArray[Any]
Format = Literal["i4", "i8", "i4m", "i8m", "i8h", "f32", "f16", "bf16"]
ComputeType = Literal["stored", "bf16", "int8", "int4"]

PANEL = 16
BLOCK = 32
SLICE_VALUES = 1 << 19
"""Values packed at a time: bounds memory, and keeps the intermediate arrays in the processor's cache."""

_STORED: dict[str, Format] = {
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "Q4_0": "i4",
    "Q4_1": "i4m",
    "Q5_0": "i8",
    "Q5_1": "i8m",
    "Q8_0": "i8",
    "Q4_K": "i4m",
    "Q5_K": "i8m",
    "Q6_K": "i8h",
}
_CONVERTED: dict[ComputeType, Format] = {"bf16": "bf16", "int8": "i8", "int4": "i4"}
_BITS = {"i4": 4, "i4m": 4, "i8": 8, "i8m": 8, "i8h": 8, "bf16": 16, "f16": 16, "f32": 32}
_ZERO = {"i4": 8, "i8": 128, "i8h": 128, "i4m": 0, "i8m": 0}


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix in the kernels' layout. `arrays` are C-contiguous and named as in the table above."""

    format: Format
    rows: int
    columns: int
    arrays: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, eq=False)
class Slice:
    """Some panels of a matrix being packed: their arrays, and what the conversion lost in them."""

    panel: int
    rows: int
    arrays: dict[str, Array]
    square_error: float
    square_sum: float


def packed_format(kind: str, columns: int, compute_type: ComputeType) -> Format:
    """The format a stored kind packs to.

    A quantised matrix no wider than the compute type is kept as stored: widening it would gain nothing.
    One whose columns do not fill blocks of 32 stays dense.
    """
    stored = _STORED[kind]
    if compute_type == "stored" or columns % BLOCK:
        return stored
    wanted = _CONVERTED[compute_type]
    kept = not KINDS[kind].is_float and _BITS[stored] <= _BITS[wanted]
    return stored if kept else wanted


def layout(format: Format, rows: int, columns: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Names, types and shapes of a packed matrix's arrays, the large one first."""
    panels, blocks = -(-rows // PANEL), columns // BLOCK
    if not format.startswith("i"):
        return {"values": (np.dtype("<f4" if format == "f32" else "<u2"), (panels, columns, PANEL))}
    words = 4 if format.startswith("i4") else 8
    scale = np.dtype("<f2" if format in ("i4", "i8") else "<f4")
    group: tuple[int, ...] = (panels, blocks, 2, PANEL) if format == "i8h" else (panels, blocks, PANEL)
    arrays = {"quants": (np.dtype("u1"), (panels, blocks, words, PANEL, 4)), "scales": (scale, group)}
    if format.endswith("m"):
        arrays["mins"] = (scale, group)
    return arrays


def pack_slices(tensor: Tensor, compute_type: ComputeType = "stored") -> Iterator[Slice]:
    """Pack a matrix a few panels at a time, in order.

    Values that need no conversion are kept to the last bit. Raises FloatingPointError where a scale or value
    is not finite.
    """
    rows, columns = tensor.shape
    format = packed_format(tensor.kind, columns, compute_type)
    step = max(1, SLICE_VALUES // (columns * PANEL)) * PANEL
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if format == _STORED[tensor.kind]:
            error = total = 0.0
            content = _stored_rows(tensor, start, stop)
        else:
            values = dequantize_rows(tensor, start, stop)
            _check_finite(values, format, "values")
            content = _converted(values, format)
            error, total = _loss(values, content)
        yield Slice(start // PANEL, stop - start, _arrange(content, format), error, total)


def pack(tensor: Tensor, compute_type: ComputeType = "stored") -> Packed:
    """A whole matrix in the kernels' layout, in memory. Raises as `pack_slices` does."""
    rows, columns = tensor.shape
    format = packed_format(tensor.kind, columns, compute_type)
    arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in layout(format, rows, columns).items()}
    for part in pack_slices(tensor, compute_type):
        for name, array in part.arrays.items():
            arrays[name][part.panel : part.panel + len(array)] = array
    return Packed(format, rows, columns, arrays)


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The matrix as float32 [rows, columns]."""
    if "values" in packed.arrays:
        values = packed.arrays["values"].transpose(0, 2, 1).reshape(-1, packed.columns)[: packed.rows]
        return float_values(packed.format.upper(), np.ascontiguousarray(values).view(np.uint8))
    quants, scales = packed.arrays["quants"], packed.arrays["scales"]
    if packed.format.startswith("i4"):
        quants = np.concatenate([quants & 15, quants >> 4], axis=2)
    codes = quants.transpose(0, 3, 1, 2, 4).reshape(-1, packed.columns)[: packed.rows]

    def per_row(array: Array) -> Array:
        return np.moveaxis(array, -1, 1).reshape(len(array) * PANEL, -1)[: packed.rows]

    mins = per_row(packed.arrays["mins"]) if "mins" in packed.arrays else None
    group = BLOCK // 2 if packed.format == "i8h" else BLOCK
    return Blocks(codes, _ZERO[packed.format], group, per_row(scales), mins).values()


def _stored_rows(tensor: Tensor, start: int, stop: int) -> Blocks | Array:
    rows = tensor.rows(start, stop)
    if not KINDS[tensor.kind].is_float:
        return split(tensor.kind, rows)
    return np.ascontiguousarray(rows).view("<f4" if tensor.kind == "F32" else "<u2")


def _converted(values: NDArray[np.float32], format: Format) -> Blocks | Array:
    if format == "bf16":
        return to_bf16(values)
    blocks = quantize_q8_0(values) if format == "i8" else quantize_q4_0(values)
    _check_finite(blocks.scales, format, "scales")
    return blocks


def _loss(values: NDArray[np.float32], content: Blocks | Array) -> tuple[float, float]:
    """Sum of squared errors of a conversion, and of squared values."""
    if isinstance(content, Blocks):
        kept = content.values()
    else:
        kept = (content.astype(np.uint32) << 16).view(np.float32)
    kept -= values
    return float(np.vdot(kept, kept)), float(np.vdot(values, values))


def _panels(array: Array) -> Array:
    """[rows, ...] to [P, 16, ...], zero beyond the last row."""
    missing = -len(array) % PANEL
    if missing:
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    return array.reshape(-1, PANEL, *array.shape[1:])


def _arrange(content: Blocks | Array, format: Format) -> dict[str, Array]:
    """Interleave the rows of a slice."""
    if not isinstance(content, Blocks):
        _check_finite(content, format, "values")
        return {"values": np.ascontiguousarray(_panels(content).transpose(0, 2, 1))}
    codes: Array = content.codes
    if format.startswith("i8") and content.zero:
        codes = codes + np.uint8(_ZERO[format] - content.zero)
    blocks: Array = codes.reshape(len(codes), -1, BLOCK)
    if format.startswith("i4"):
        blocks = blocks[..., :16] | blocks[..., 16:] << 4
    words = _panels(np.ascontiguousarray(blocks).view(np.uint32))  # four columns move together
    quants = np.ascontiguousarray(words.transpose(0, 2, 3, 1)).view(np.uint8)
    arrays = {"quants": quants.reshape(*quants.shape[:3], PANEL, 4)}
    halves = (2,) if format == "i8h" else ()
    for name, array in (("scales", content.scales), ("mins", content.mins)):
        if array is not None:
            _check_finite(array, format, name)
            grouped = _panels(array).reshape(-1, PANEL, blocks.shape[1], *halves)
            arrays[name] = np.ascontiguousarray(np.moveaxis(grouped, 1, -1))
    return arrays


def _check_finite(array: Array, format: Format, what: str) -> None:
    if array.dtype == np.uint16:  # bits of a 16-bit float: not finite when the exponent is all ones
        exponent = np.uint16(0x7C00 if format == "f16" else 0x7F80)
        finite = bool(((array & exponent) != exponent).all())
    else:
        finite = bool(np.isfinite(array).all())
    if not finite:
        raise FloatingPointError(f"{what} hold NaN or infinity, or are too large for {format}")
