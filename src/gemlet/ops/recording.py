"""The reference executor, watching what goes into the matrices: second moments of the inputs of linear."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from gemlet.ops.batch import Batch, StepOutput
from gemlet.ops.operations import Float32
from gemlet.ops.packed import Packed
from gemlet.ops.reference import ReferenceExecutor, ReferenceOperations
from gemlet.ops.reference_state import ReferenceState


class _Enough(Exception):
    """All that is watched in this step has been seen."""


class _WatchedOperations(ReferenceOperations):
    def __init__(self, batch: Batch, unpacked: Callable[[Packed], Float32], watch: _Watch) -> None:
        super().__init__(batch, unpacked)
        self._watch = watch
        self._waiting = set(watch.sums)
        self._last: tuple[Float32, Float32] | None = None  # an input and its product

    def linear(self, x: Float32, weight: Packed, precise: bool = False) -> Float32:
        if id(weight) in self._waiting:
            product = self._last[1] if self._last is not None and self._last[0] is x else x.T @ x
            self._last = x, product  # several matrices have one input
            self._watch.add(weight, product)
            self._waiting.discard(id(weight))
            if not self._waiting:
                raise _Enough
        return super().linear(x, weight, precise)


class _Watch:
    """Sums of x xᵀ by matrix; matrices that always have one input share one array."""

    def __init__(self, weights: Iterable[Packed]) -> None:
        self.sums: dict[int, Float32 | None] = {id(weight): None for weight in weights}
        self._of_step: list[tuple[Float32, Float32]] = []  # products and the sum that each was added to

    def begin(self) -> None:
        self._of_step.clear()

    def add(self, weight: Packed, product: Float32) -> None:
        for seen, shared in self._of_step:
            if seen is product:
                self.sums[id(weight)] = shared
                return
        before = self.sums[id(weight)]
        total: Float32 = np.zeros_like(product) if before is None else before
        total += product
        self.sums[id(weight)] = total
        self._of_step.append((product, total))


class RecordingExecutor(ReferenceExecutor):
    """Runs a program as the reference does, and sums x xᵀ over the inputs x of the matrices it watches.

    While it watches, a step ends with the last watched matrix and gives no outputs.
    """

    _watching: _Watch | None = None

    def watch(self, weights: Iterable[Packed]) -> None:
        """Begin anew with these matrices; none ends it."""
        watch = _Watch(weights)
        self._watching = watch if watch.sums else None

    def moments(self, weight: Packed) -> Float32:
        """The sum so far for a watched matrix, float32 [columns, columns]; KeyError for another one."""
        total = self._watching.sums[id(weight)] if self._watching else None
        if total is None:
            raise KeyError("the matrix is not watched, or nothing was computed")
        return total

    def replace(self, weight: Packed, values: Float32) -> None:
        """Compute with these values, float32 [rows, columns], in place of a matrix."""
        self._unpacked[id(weight)] = weight, values

    def values(self, weight: Packed) -> Float32:
        """The float32 values that are computed with."""
        return self._unpack(weight)

    def step(self, batch: Batch) -> StepOutput:
        watch = self._watching
        if watch is None:
            return super().step(batch)
        watch.begin()
        with suppress(_Enough):
            self._program.forward(_WatchedOperations(batch, self._unpack, watch))
        for state, rows in zip(batch.states, batch.rows, strict=True):
            assert isinstance(state, ReferenceState)  # the reference has no others
            state.advance(rows)
        nothing = np.zeros((0, self._program.vocab_size), np.float32)
        return StepOutput(nothing, nothing)
