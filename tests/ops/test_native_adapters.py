"""Adapters at the door of the compiled module: what it refuses, and what it keeps alive."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from gemlet.ops.native import FORMATS
from gemlet.ops.record import OUTPUTS, ROWS, Op
from tests.ops.test_native import HIDDEN, VOCABULARY, arrays, program, step


def low_rank(rank: int = 4, columns: int = HIDDEN, rows: int = HIDDEN) -> tuple[Any, Any]:
    """Two dense matrices as the module takes them."""
    return (
        (FORMATS.index("f32"), rank, columns, *arrays("f32", rank, columns)),
        (FORMATS.index("f32"), rows, rank, *arrays("f32", rows, rank)),
    )


def with_product() -> Any:
    """The program with a product that an adapter may add to."""
    matrices = [
        (FORMATS.index("i8"), VOCABULARY, HIDDEN, *arrays("i8", VOCABULARY, HIDDEN)),
        (FORMATS.index("f32"), HIDDEN, HIDDEN, *arrays("f32", HIDDEN, HIDDEN)),
    ]
    hidden = ROWS["hidden"]
    instructions = [
        (int(Op.EMBED), 0, 0, 0, 0, 0, 0, HIDDEN, 0, 1.0),
        (int(Op.LINEAR), 0, 1, 0, 0, 1, 0, HIDDEN, 0, 0.0),
        (int(Op.SELECT), hidden, OUTPUTS["hidden"], 1, 0, 0, 0, HIDDEN, 0, 0.0),
    ]
    return program(matrices=matrices, instructions=instructions)


def test_adapters_that_do_not_fit_are_refused() -> None:
    made = with_product()
    a, b = low_rank()
    adapter = made.adapter([(1, a, b, 1.0)])
    step(made, adapters=[adapter])
    step(made, adapters=[None])
    for parts in (
        [(0, a, b, 1.0)],
        [(2, a, b, 1.0)],
        [(-1, a, b, 1.0)],
        [(1, a, b, 1.0), (1, a, b, 1.0)],
        [(1, a, b, float("nan"))],
        [(1, a, low_rank(5)[1], 1.0)],
        [(1, *low_rank(columns=31), 1.0)],
        [(1, *low_rank(rows=48), 1.0)],
        [(1, *low_rank(2000), 1.0)],
        [(1, (*a[:3], a[3][:-1], None, None), b, 1.0)],
        [(1, (*a[:3], a[3].astype(np.float64), None, None), b, 1.0)],
    ):
        with pytest.raises(ValueError):
            made.adapter(parts)
    for adapters in ([adapter, adapter], [with_product().adapter([(1, a, b, 1.0)])]):
        with pytest.raises(ValueError):
            step(made, adapters=adapters)
    with pytest.raises(TypeError):
        step(made, adapters=[made])


def test_an_adapter_keeps_its_arrays_and_its_program_apart() -> None:
    made = with_product()
    a, b = low_rank()
    a[3][:], b[3][:] = 1, 1
    adapter = made.adapter([(1, a, b, 1.0)])
    del a, b
    gc.collect()
    junk = [np.full((1, HIDDEN, 16), 9, np.float32) for _ in range(50)]
    step(made, adapters=[adapter])
    del made, junk
    gc.collect()
    with pytest.raises(ValueError, match="another model"):  # though a program may lie where its own did
        step(with_product(), adapters=[adapter])
