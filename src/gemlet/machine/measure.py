"""Measured rates of this machine through NumPy: quick, portable lower bounds on what kernels can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def read_bandwidth(threads: int = 1, *, size: int = 1 << 28, repeats: int = 5) -> float:
    """Bytes per second that `threads` threads read from memory together: the best of `repeats` passes.

    `size` is in bytes and must be far larger than the last-level cache.
    """
    parts = np.array_split(np.ones(size // 8, dtype=np.float64), threads)
    with ThreadPoolExecutor(threads) as pool:  # NumPy leaves the interpreter lock while it reduces
        return size / _best(lambda: list(pool.map(np.maximum.reduce, parts)), repeats)


def multiply_add_rate(*, width: int = 1024, repeats: int = 5) -> float:
    """Float32 multiply-adds per second of NumPy's matrix product, on as many threads as it takes."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((width, width), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return float(width**3) / _best(lambda: np.matmul(a, b, out=out), repeats)


def _best(run: Callable[[], object], repeats: int) -> float:
    """Shortest time of one call, in seconds: disturbances only ever add to it."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
