"""Encoding against the gguf package: the same bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from gemlet.formats.blocks import Blocks, join, split
from gemlet.formats.dequantize import dequantize
from gemlet.formats.encode import ENCODED_KINDS, encode_rows
from gemlet.formats.tensors import Tensor
from tests.synthetic import random_blocks


def values() -> np.ndarray:
    rows = np.random.default_rng(7).standard_normal((48, 192)).astype(np.float32)
    rows[0] = 0
    rows[1, ::32] = 900
    rows[2] *= np.float32(1e-6)
    return rows


@pytest.mark.parametrize("kind", ENCODED_KINDS)
def test_bytes_equal_the_gguf_package(kind: str) -> None:
    ours = encode_rows(kind, values())
    theirs = gguf.quants.quantize(values(), GGMLQuantizationType[kind]).view(np.uint8)
    assert np.array_equal(ours, theirs.reshape(ours.shape))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_join_undoes_split(kind: str) -> None:
    rows = random_blocks(kind, 5, 96, np.random.default_rng(1))
    assert np.array_equal(join(kind, split(kind, rows)), rows)


@pytest.mark.parametrize("kind", ENCODED_KINDS)
def test_values_that_the_kind_holds_come_back(kind: str) -> None:
    exact = np.array([[-8.0, 7.0, *([0.5] if not kind.startswith("Q") else [1.0]) * 30]], np.float32)
    if kind == "Q8_0":
        exact[0, 0] = 127.0  # a step of one
    read = dequantize(Tensor("a", kind, exact.shape, encode_rows(kind, exact).reshape(-1)))
    assert np.array_equal(read, exact)


@pytest.mark.parametrize("kind", ENCODED_KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(kind: str, wrong: float) -> None:
    with pytest.raises(FloatingPointError):
        encode_rows(kind, np.full((1, 32), wrong, np.float32))


@pytest.mark.parametrize(
    ("kind", "most", "beyond"),
    [
        ("F16", 65504.0, 65520.0),  # the next step up rounds to infinity
        ("BF16", 3.38953139e38, 3.4e38),
        ("Q8_0", 65504.0 * 127, 65520.0 * 127),
        ("Q4_0", -65504.0 * 8, -65520.0 * 8),
    ],
)
def test_what_is_too_large_is_refused_and_never_clamped(kind: str, most: float, beyond: float) -> None:
    rows = np.zeros((1, 32), np.float32)
    rows[0, 0] = most
    read = dequantize(Tensor("a", kind, rows.shape, encode_rows(kind, rows).reshape(-1)))
    assert read[0, 0] == np.float32(most)
    rows[0, 0] = beyond
    with pytest.raises(FloatingPointError, match="too large"):
        encode_rows(kind, rows)


def test_blocks_of_another_kind_are_not_joined() -> None:
    blocks = split("Q8_0", random_blocks("Q8_0", 1, 32, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="Q4_0"):
        join("Q4_0", blocks)
    with pytest.raises(ValueError, match="Q8_0"):
        join("Q8_0", Blocks(blocks.codes, 128, 32, blocks.scales.astype(np.float32)))
