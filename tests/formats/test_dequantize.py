"""Dequantised values against the gguf package, to the last bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from gemlet.formats.dequantize import dequantize, dequantize_rows
from gemlet.formats.gguf import read_gguf
from gemlet.formats.tensors import KINDS, Tensor
from tests.formats.real_file import real_270m

HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where a block holds half floats; the other quantised kinds hold one, at 0."""


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype == np.float32 and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def any_rows(kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of random bytes whose half floats are finite: zeros, denormals, largest, negative, ordinary."""
    info = KINDS[kind]
    data = rng.integers(0, 256, (rows, columns // info.block, info.nbytes), dtype=np.uint8)
    if kind in ("F32", "BF16", "F16"):
        data[..., -1] &= 0xBF if kind != "F16" else 0xFB  # clear a bit of the exponent: finite
        return data.reshape(rows, -1)
    special = np.array([0.0, -0.0, 6e-8, -6e-8, 5.9e-5, 65504.0, -65504.0, 0.013, -1.7], np.float16)
    for at in HALVES.get(kind, (0,)):
        data[..., at : at + 2] = rng.choice(special, data.shape[:2])[..., None].view(np.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_random_blocks_equal_the_gguf_package(kind: str) -> None:
    data = any_rows(kind, 33, 1536, np.random.default_rng(7))
    tensor = Tensor("x", kind, (33, 1536), data.reshape(-1))
    with np.errstate(over="ignore"):  # the largest scales times the largest codes
        expected = gguf.quants.dequantize(data, GGMLQuantizationType[kind])
        assert same_bits(dequantize(tensor), expected)
        assert same_bits(dequantize_rows(tensor, 5, 9), expected[5:9])


def test_every_code_of_a_kind_is_met() -> None:
    """A test on random blocks proves nothing about codes that do not occur in them."""
    for kind, levels in {"Q4_0": 16, "Q5_0": 32, "Q8_0": 256, "Q4_K": 16, "Q5_K": 32, "Q6_K": 64}.items():
        data = np.random.default_rng(7).integers(0, 256, (64, KINDS[kind].nbytes), dtype=np.uint8)
        for at in HALVES.get(kind, (0,)):
            data[:, at : at + 2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
        if kind == "Q6_K":
            data[:, 192:208] = 1
        if kind.endswith("K") and kind != "Q6_K":
            data[:, 4:16] = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
        tensor = Tensor("x", kind, (64, KINDS[kind].block), data.reshape(-1))
        assert len(np.unique(dequantize(tensor))) == levels


def test_a_vector_keeps_its_shape() -> None:
    tensor = Tensor("norm", "F16", (3,), np.array([1, 2, 3], np.float16).view(np.uint8))
    assert dequantize(tensor).tolist() == [1.0, 2.0, 3.0]


def test_the_real_file_equals_the_gguf_package(tmp_path_factory: pytest.TempPathFactory) -> None:
    tensors = read_gguf(real_270m(tmp_path_factory.getbasetemp())).tensors
    assert {tensor.kind for tensor in tensors.values()} == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    for name, tensor in tensors.items():
        last = tensor.rows(-64)  # the package takes 0.1 µs a value
        expected = gguf.quants.dequantize(np.ascontiguousarray(last), GGMLQuantizationType[tensor.kind])
        values = dequantize_rows(tensor, -64, None)
        assert same_bits(values, expected), name
