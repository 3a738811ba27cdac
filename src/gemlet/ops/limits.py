"""What the machine itself can do, measured: the limits beside which a model's speed is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from gemlet import machine
from gemlet.errors import InvalidRequestError
from gemlet.ops import _native
from gemlet.ops.native import MOST_THREADS, choose_instruction_set

LARGE = 1 << 28
"""Bytes read in one pass: more than the last-level caches of ordinary machines hold."""


@dataclass(frozen=True)
class Limits:
    """Rates a second of all threads together, with the instruction set that the kernels use.

    `read_bytes`: from memory. `byte_products`, `float_products`: multiply-adds of 8-bit integers and of
    float32, on registers and the nearest cache.
    """

    read_bytes: float
    byte_products: float
    float_products: float


def measure_limits(threads: int | None = None, *, bytes: int = LARGE, seconds: float = 0.3) -> Limits:
    """The best of several passes that take about `seconds`, on `threads` threads (None: as many as usual).

    Raises InvalidRequestError for what cannot be measured, ConfigError for an impossible GEMLET_ISA.
    """
    count = threads or min(machine.threads().count, MOST_THREADS)
    try:
        rates = _native.measure_limits(choose_instruction_set(), count, bytes, seconds)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None
    return Limits(*cast("tuple[float, float, float]", rates))
