"""The kernels' layout: exact for what is stored, defined by `unpack`, and laid out as documented."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from gemlet.formats.dequantize import dequantize
from gemlet.formats.tensors import KINDS, Tensor
from gemlet.ops import packed as module
from gemlet.ops.packed import layout, pack, pack_slices, packed_format, unpack
from tests.synthetic import random_blocks, stored

QUANTISED = [kind.name for kind in KINDS.values() if not kind.is_float]


def matrix(kind: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    if KINDS[kind].is_float:
        data = stored(rng.standard_normal((rows, columns), dtype=np.float32), kind, rng)
    else:
        data = random_blocks(kind, rows, columns, rng)
    return Tensor("x", kind, (rows, columns), data.reshape(-1))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 50])
def test_packing_what_is_stored_is_exact(kind: str, rows: int) -> None:
    tensor = matrix(kind, rows, 512, seed=rows)
    assert same_bits(unpack(pack(tensor)), dequantize(tensor))


@given(rows=st.integers(1, 40), columns=st.integers(1, 80), kind=st.sampled_from(["F32", "F16", "BF16"]))
def test_dense_matrices_of_any_width_are_exact(rows: int, columns: int, kind: str) -> None:
    tensor = matrix(kind, rows, columns)
    assert same_bits(unpack(pack(tensor)), dequantize(tensor))


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_as_the_layout_says(kind: str) -> None:
    result = pack(matrix(kind, 20, 256))
    expected = layout(result.format, 20, 256)
    assert list(result.arrays) == list(expected)
    for name, array in result.arrays.items():
        assert (array.dtype, array.shape) == expected[name]
        assert array.flags.c_contiguous


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q6_K"])
def test_an_element_is_where_the_table_says(kind: str) -> None:
    tensor = matrix(kind, 40, 256, seed=5)
    values, result = dequantize(tensor), pack(tensor)
    quants, scales = result.arrays["quants"], result.arrays["scales"].astype(np.float32)
    for row, column in [(0, 0), (17, 3), (39, 255), (16, 16), (5, 31), (33, 47), (2, 140)]:
        panel, r, block, c = row // 16, row % 16, column // 32, column % 32
        if kind == "Q4_0":
            byte = quants[panel, block, c % 16 // 4, r, c % 4]
            value = scales[panel, block, r] * (int(byte >> 4 if c >= 16 else byte & 15) - 8)
        else:
            code = int(quants[panel, block, c // 4, r, c % 4]) - 128
            scale = scales[panel, block, c // 16, r] if kind == "Q6_K" else scales[panel, block, r]
            value = scale * code
        assert value == values[row, column], (row, column)


def test_rows_beyond_the_end_are_zero_bytes() -> None:
    for kind in KINDS:
        for name, array in pack(matrix(kind, 17, 256)).arrays.items():
            axis = array.ndim - 2 if name == "quants" else array.ndim - 1
            assert not np.take(array[1], range(1, 16), axis=axis - 1).view(np.uint8).any(), (kind, name)


def test_slices_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = matrix("Q5_K", 100, 256)
    whole = pack(tensor)
    monkeypatch.setattr(module, "SLICE_VALUES", 2 * 16 * 256)
    parts = list(pack_slices(tensor))
    assert [part.panel for part in parts] == [0, 2, 4, 6]
    assert sum(part.rows for part in parts) == 100
    for name, array in whole.arrays.items():
        assert np.array_equal(np.concatenate([part.arrays[name] for part in parts]), array)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q6_K"])
@pytest.mark.parametrize(("compute_type", "rule"), [("int8", "Q8_0"), ("int4", "Q4_0")])
def test_conversion_is_the_gguf_packages(kind: str, compute_type: str, rule: str) -> None:
    tensor = matrix(kind, 24, 256)
    if kind == "Q6_K" and compute_type == "int8":
        assert pack(tensor, "int8").format == "i8h"  # 8 bits already: kept
        return
    type_ = GGMLQuantizationType[rule]
    expected = gguf.quants.dequantize(gguf.quants.quantize(dequantize(tensor), type_), type_)
    assert same_bits(unpack(pack(tensor, compute_type)), expected)  # type: ignore[arg-type]


def test_bf16_of_float32_is_rounded() -> None:
    tensor = matrix("F32", 20, 40)
    values = unpack(pack(tensor, "bf16"))
    assert same_bits(values, dequantize(tensor))  # 40 columns do not fill blocks: it stays as it is
    tensor = matrix("F32", 20, 64)
    values, result = dequantize(tensor), pack(tensor, "bf16")
    assert result.format == "bf16"
    assert np.abs(unpack(result) / values - 1).max() <= 2**-8  # half a unit in the last of 8 places


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_matrix_is_never_widened(kind: str) -> None:
    assert packed_format(kind, 256, "bf16") == packed_format(kind, 256, "stored")


def test_the_loss_of_a_conversion_is_measured() -> None:
    tensor = matrix("F32", 32, 64)
    values = dequantize(tensor)
    part = next(pack_slices(tensor, "int4"))
    wanted = float(((unpack(pack(tensor, "int4")) - values) ** 2).sum())
    assert part.square_error == pytest.approx(wanted, rel=1e-4)
    assert part.square_sum == pytest.approx(float((values**2).sum()), rel=1e-4)
    assert next(pack_slices(tensor)).square_error == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(kind: str, bad: float) -> None:
    tensor = matrix(kind, 20, 256)
    data = tensor.data.copy()
    size = {"F32": 4}.get(kind, 2)
    at = {"Q6_K": 208}.get(kind, 0)
    bits = np.array([bad], np.float32).view(np.uint32) >> 16 if kind == "BF16" else None
    value = bits.astype(np.uint16) if bits is not None else np.array([bad], f"f{size}")
    data[at : at + size] = value.view(np.uint8)
    with pytest.raises(FloatingPointError):
        pack(Tensor("x", kind, tensor.shape, data))


def test_a_value_too_large_for_int8_is_refused() -> None:
    data = np.full((1, 32), 1e30, np.float32)
    with pytest.raises(FloatingPointError):
        pack(Tensor("x", "F32", (1, 32), data.reshape(-1).view(np.uint8)), "int8")
