"""Quantisation against the gguf package: the same codes and scales."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from gemlet.formats.blocks import Blocks, split
from gemlet.formats.quantize import fit_q8_0, quantize_q4_0, quantize_q8_0, to_bf16

RULES = {"Q8_0": quantize_q8_0, "Q4_0": quantize_q4_0}


def values() -> np.ndarray:
    """Ordinary rows; zeros; ties; an outlier a group; tiny values whose scale is a denormal or zero."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((64, 256)).astype(np.float32)
    rows[0] = 0
    rows[1] = np.round(rows[1] * 4) / 8
    rows[2, ::32] = 1000
    rows[3] *= np.float32(1e-6)
    rows[4] *= np.float32(1e-20)
    rows[5] = np.tile(np.arange(-16, 16, dtype=np.float32), 8)
    rows[6] = np.where(rows[6] > 0, np.float32(127), np.float32(0.5))  # halves of a step, exactly
    rows[7] = -np.abs(rows[7])
    return rows


def equal(ours: Blocks, theirs: Blocks) -> None:
    assert np.array_equal(ours.codes, theirs.codes)
    assert np.array_equal(ours.scales.view(np.uint16), theirs.scales.view(np.uint16))
    assert (ours.zero, ours.group) == (theirs.zero, theirs.group)


@pytest.mark.parametrize("kind", RULES)
def test_codes_and_scales_equal_the_gguf_package(kind: str) -> None:
    rows = values()
    equal(RULES[kind](rows), split(kind, gguf.quants.quantize(rows, GGMLQuantizationType[kind])))


@pytest.mark.parametrize("kind", RULES)
def test_float_denormals_become_zero(kind: str) -> None:
    """Their inverse does not exist in float32, and their scale is zero as a half float."""
    blocks = RULES[kind](np.full((1, 32), 1e-39, np.float32))
    assert not blocks.values().any()


def test_a_value_too_large_for_a_scale_is_left_infinite() -> None:
    assert np.isinf(quantize_q8_0(np.full((1, 32), 1e30, np.float32)).scales).all()


def test_bf16_rounds_as_the_gguf_package() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    edges = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] + np.array(
        [0x7FFF, 0x8000, 0x8001], np.uint32
    )
    floats = np.concatenate([bits, edges.reshape(-1)]).view(np.float32)
    floats = floats[np.isfinite(floats)]
    floats = floats[: len(floats) // 256 * 256].reshape(-1, 256)
    expected = gguf.quants.quantize(floats, GGMLQuantizationType.BF16).view(np.uint16)
    assert np.array_equal(to_bf16(floats), expected)


def test_fitted_scales_meet_values_that_lie_on_another_grid() -> None:
    """16 steps above a minimum, as Q4_1 has them; values on no grid lose nothing by the search."""
    rng = np.random.default_rng(8)
    codes = rng.integers(0, 16, (40, 4, 32))
    steps, least = rng.uniform(0.01, 0.02, (40, 4, 1)), rng.uniform(-0.2, -0.1, (40, 4, 1))
    on_grid = (codes * steps + least).reshape(40, 128).astype(np.float32)
    free = rng.standard_normal((40, 128), dtype=np.float32)
    for values, share in ((on_grid, 0.4), (free, 1.0)):
        fitted, usual = (
            float(np.square(f(values).values() - values).sum()) for f in (fit_q8_0, quantize_q8_0)
        )
        assert fitted <= share * usual * (1 + 1e-3)
    assert not fit_q8_0(np.zeros((1, 32), np.float32)).values().any()
    assert np.isinf(fit_q8_0(np.full((1, 32), 1e30, np.float32)).scales).any()
