"""The search against plain rounding, on inputs whose moments are known."""

from __future__ import annotations

import numpy as np
import pytest

from gemlet.convert.int4_search import search, weighted_error
from gemlet.formats.quantize import quantize_q4_0


def matrix(rng: np.random.Generator, rows: int = 48, columns: int = 128) -> np.ndarray:
    return rng.standard_normal((rows, columns)).astype(np.float32) * np.float32(0.05)


def inputs(rng: np.random.Generator, columns: int = 128, count: int = 2000) -> np.ndarray:
    """Correlated, and of very different strengths, as those of a model are."""
    mixed = rng.standard_normal((count, 24)) @ rng.standard_normal((24, columns))
    strengths = np.exp(rng.standard_normal(columns))
    return ((mixed + rng.standard_normal((count, columns))) * strengths).astype(np.float32)


def test_products_are_nearer_than_with_plain_rounding_on_other_inputs() -> None:
    rng = np.random.default_rng(0)
    values, known = matrix(rng), inputs(rng, count=4000)
    seen, unseen = known[::2], known[1::2]
    found = search(values, seen.T @ seen)
    error = np.square((found.values() - values) @ unseen.T).sum()
    plain = np.square((quantize_q4_0(values).values() - values) @ unseen.T).sum()
    assert error < 0.5 * plain


def test_moments_of_other_columns_serve_worse() -> None:
    rng = np.random.default_rng(1)
    values, known = matrix(rng), inputs(rng)
    moments = known.T @ known
    shuffled = rng.permutation(128)
    right = weighted_error(values, search(values, moments), moments)
    wrong = weighted_error(values, search(values, moments[np.ix_(shuffled, shuffled)]), moments)
    assert wrong > 1.5 * right


def test_without_correlation_the_scales_alone_are_no_worse() -> None:
    rng = np.random.default_rng(2)
    values, moments = matrix(rng), np.eye(128, dtype=np.float32)
    assert weighted_error(values, search(values, moments), moments) < weighted_error(
        values, quantize_q4_0(values), moments
    )


def test_it_is_a_q4_0_matrix_and_always_the_same() -> None:
    rng = np.random.default_rng(3)
    values, known = matrix(rng), inputs(rng)
    values[0, :32] = 0
    found, again = (search(values, known.T @ known) for _ in range(2))
    assert found.scales.dtype == np.float16
    assert (found.zero, found.group, found.codes.dtype) == (8, 32, np.uint8)
    assert found.codes.max() <= 15
    assert np.array_equal(found.codes, again.codes)
    assert np.array_equal(found.scales, again.scales)


def test_without_inputs_it_rounds_plainly() -> None:
    values = matrix(np.random.default_rng(4))
    found, plain = search(values, np.zeros((128, 128), np.float32)), quantize_q4_0(values)
    assert np.array_equal(found.codes, plain.codes)
    with pytest.raises(ValueError, match="moments"):
        search(values, np.zeros((64, 64), np.float32))
