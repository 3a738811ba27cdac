"""The head's sketch: a coarse copy that proves of most rows that they do not hold the largest logits.

A row w is kept as a = wM in few bits, where M is invertible: wx = ay with y = inverse·x, and what the codes
leave out of a, e, changes a logit by at most |e||y|. M makes the hidden states' covariance the identity and
the rows' diagonal: few elements of a hold most of what tells rows apart, and |y| varies little.
Layout and arithmetic: native/include/gemlet/head.h.

Any M gives correct bounds, so what it was fitted to can only make it slower.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemlet.ops.packed import PANEL, Packed, unpack

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BYTES = 16
"""Elements with 8 bits: the first few hold most of the variance."""

NIBBLES = 0.5
"""Share of the elements with 4 bits; the rest has 2."""

SHRINKAGE = 0.1
"""Share of the mean variance added to every direction, for inputs unlike those it was fitted to."""

FINE_STEP = 0.13
"""Of the coarse step; 16 of them reach beyond half a coarse step, for what lies outside the codes' range."""

_STEPS = {4: 0.37, 2: 1.15}  # of the standard deviation: near the least error, coarse and fine
_SLICE = 2048
_TERMS = 128  # products summed in float32 before they are joined in float64
_UNIT = 2.0**-24

TOP = 16
"""Of the 64 largest it reads half the bytes, but took as long as the whole head where it was measured."""

T = TypeVar("T")
Pieces = Generator[None, None, T]
"""Work that stops after every piece of some hundredths of a second, and what it gives in the end."""

ARRAYS = ("panels", "fine", "drops", "inverse", "steps", "centres")


@dataclass(frozen=True, eq=False)
class HeadSketch:
    """arrays: as ARRAYS names them; bounds: fine_step, slack, largest. See native/include/gemlet/head.h.

    top: the most of the largest logits that it is used for.
    """

    rows: int
    columns: int
    bytes: int
    nibbles: int
    arrays: Mapping[str, NDArray[Any]]
    bounds: tuple[float, float, float]
    top: int = TOP

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def finish(work: Pieces[T]) -> T:
    """Do all the pieces."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            given: T = end.value
            return given


def can_sketch(head: Packed) -> bool:
    """Whether the native executor can use a sketch of this head."""
    return head.format in ("i4", "i8", "i8h")


def sketch_bytes(rows: int, columns: int) -> int:
    """Bytes of the sketch of a head of that shape."""
    panels, fine = -(-rows // PANEL) * _lines(columns), rows * -(-columns // 128)
    return 64 * (panels + fine) + 4 * (rows + columns * columns + 2 * columns)


def _nibbles(columns: int) -> int:
    return min(columns - BYTES, int(columns * NIBBLES) // 16 * 16)


def _lines(columns: int) -> int:
    """Of 64 bytes, in a panel."""
    nibbles = _nibbles(columns)
    return BYTES // 4 + nibbles // 8 + (columns - BYTES - nibbles) // 16 + 1


def build_sketch(head: Packed, hidden: Float32) -> Pieces[HeadSketch | None]:
    """The sketch of a head, fitted to final hidden states [n, columns]; None where it could not help.

    Takes seconds, for a product of the head with a square matrix.
    """
    if not can_sketch(head) or not np.isfinite(hidden).all() or not hidden.any():
        return None
    every = max(1, head.rows // _SLICE // 8)
    parts = []
    for start in range(0, head.rows, every * _SLICE):
        parts.append(_rows(head, start))
        yield
    sample = np.concatenate(parts)
    mean = sample.mean(axis=0, dtype=np.float64)
    yield
    inverse, transform = _transform(hidden, sample, mean)
    yield
    fit = _Fit.of(head, sample, inverse, transform)
    arrays = fit.empty_arrays()
    largest = longest = 0.0
    for start in range(0, head.rows, _SLICE):
        yield
        part, reach, length = fit.encode(_rows(head, start))
        largest, longest = max(largest, reach), max(longest, length)
        for name, array in part.items():
            first = start // PANEL if name == "panels" else start
            arrays[name][first : first + len(array)] = array
    bounds = (float(fit.fine_step), _up(fit.slack(head, longest)), _up(largest))
    if not all(np.isfinite(bounds)) or longest > 1e9:
        return None
    return HeadSketch(head.rows, head.columns, fit.bytes, fit.nibbles, arrays, bounds)


def _rows(head: Packed, start: int) -> Float32:
    """A slice of the head that begins at row `start`."""
    first, last = start // PANEL, -(-min(start + _SLICE, head.rows) // PANEL)
    arrays = {name: array[first:last] for name, array in head.arrays.items()}
    return unpack(Packed(head.format, min(_SLICE, head.rows - start), head.columns, arrays))


def _transform(hidden: Float32, sample: Float32, mean: Float64) -> tuple[Float32, Float64]:
    """The inverse in float32, and what it is the inverse of, to float64."""
    states, rows = hidden.astype(np.float64), sample - mean.astype(np.float32)
    of_states, of_rows = states.T @ states / len(states), (rows.T @ rows).astype(np.float64) / len(rows)
    columns = len(of_states)
    of_states += np.eye(columns) * (SHRINKAGE * np.trace(of_states) / columns)
    lower = np.linalg.cholesky(of_states)
    _, axes = np.linalg.eigh(lower.T @ of_rows @ lower)
    inverse: Float32 = np.linalg.inv(lower @ axes[:, ::-1]).astype(np.float32)
    return inverse, np.linalg.inv(inverse.astype(np.float64))


@dataclass(frozen=True, eq=False)
class _Fit:
    rows: int
    columns: int
    bytes: int
    nibbles: int
    inverse: Float32
    transform: Float64
    steps: Float32
    centres: Float32

    fine_step = np.float32(FINE_STEP)

    @classmethod
    def of(cls, head: Packed, sample: Float32, inverse: Float32, transform: Float64) -> _Fit:
        columns = head.columns
        nibbles = _nibbles(columns)
        values = sample @ transform.astype(np.float32)
        centres = values.mean(axis=0)
        deviation = values.std(axis=0)
        steps = np.concatenate(
            [
                1.1 * np.abs(values - centres).max(axis=0)[:BYTES] / 127.5,
                _STEPS[4] * deviation[BYTES : BYTES + nibbles],
                _STEPS[2] * deviation[BYTES + nibbles :],
            ]
        )
        steps = np.maximum(steps, 1e-30).astype(np.float32)
        return cls(head.rows, columns, BYTES, nibbles, inverse, transform, steps, centres.astype(np.float32))

    def most(self) -> Float32:
        """The largest code of each element."""
        counts = self.bytes, self.nibbles, self.columns - self.bytes - self.nibbles
        return np.repeat(np.array([255, 15, 3], np.float32), counts)

    def empty_arrays(self) -> dict[str, NDArray[Any]]:
        panels = self.inverse.T.reshape(self.columns, -1, PANEL).transpose(1, 0, 2)
        return {
            "panels": np.empty((-(-self.rows // PANEL), _lines(self.columns), 64), np.uint8),
            "fine": np.empty((self.rows, -(-self.columns // 128), 64), np.uint8),
            "drops": np.empty(self.rows, np.float32),
            "inverse": np.ascontiguousarray(panels),
            "steps": self.steps,
            "centres": self.centres,
        }

    def encode(self, rows: Float32) -> tuple[dict[str, NDArray[Any]], float, float]:
        """Arrays of some rows, the largest |e| among them, and the longest row.

        The product rounds each element by at most as many units of |w||M| as terms and parts are added, and
        rounding M, taking codes and unpacking rows by less than 8 more; the sums of squares by less than
        1e-4 of themselves.
        """
        matrix, most = self.transform.astype(np.float32), self.most()
        values = np.zeros((len(rows), self.columns), np.float32)
        for start in range(0, self.columns, _TERMS):
            values += rows[:, start : start + _TERMS] @ matrix[start : start + _TERMS]
        rest = values - self.centres
        codes = np.clip(np.rint(rest / self.steps + most / 2), 0, most)
        rest -= (codes - most / 2) * self.steps
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        units = _TERMS + self.columns // _TERMS + 8
        error = lengths * (units * _UNIT * np.linalg.norm(self.transform))
        reach = _raised(rest, error)
        fine_steps = self.fine_step * self.steps
        fine = np.clip(np.rint(rest / fine_steps + np.float32(7.5)), 0, 15)
        rest -= (fine - np.float32(7.5)) * fine_steps
        drops = np.nextafter((reach.astype(np.float64) - _raised(rest, error)).astype(np.float32), -np.inf)
        arrays = {
            "panels": self._panels(codes.astype(np.uint8), reach),
            "fine": _fine(fine.astype(np.uint8)),
            "drops": drops,
        }
        return arrays, float(reach.max()), float(lengths.max())

    def _panels(self, codes: NDArray[np.uint8], reach: Float32) -> NDArray[np.uint8]:
        missing = -len(codes) % PANEL
        codes = np.pad(codes, ((0, missing), (0, 0))).reshape(-1, PANEL, self.columns)
        reach = np.pad(reach, (0, missing)).reshape(-1, 1, PANEL)
        wide, middle, narrow = np.split(codes, [self.bytes, self.bytes + self.nibbles], axis=2)
        words = [wide.reshape(len(codes), PANEL, -1, 4)]
        for part, count, bits in ((middle, 2, 4), (narrow, 4, 2)):
            groups = part.reshape(len(codes), PANEL, -1, count, 4)
            shifts = np.arange(0, count * bits, bits, dtype=np.uint8)[:, None]
            words.append(np.bitwise_or.reduce(groups << shifts, axis=3))
        lines = np.concatenate(words, axis=2).transpose(0, 2, 1, 3).reshape(len(codes), -1, 64)
        return np.concatenate([lines, reach.view(np.uint8)], axis=1)

    def slack(self, head: Packed, longest: float) -> float:
        """What must be allowed for |x| = 1 in any row besides what the codes leave out.

        The head's own product in float32: two roundings a half block and four more of |w||x|. That the
        transform is not quite the inverse's inverse, and that both this and inverse·x are rounded.
        """
        own = (4 * head.columns // 32 + 8) * _UNIT
        inverse = self.inverse.astype(np.float64)
        apart = float(np.linalg.norm(np.eye(self.columns) - self.transform @ inverse))
        lengths = float(np.linalg.norm(inverse) * np.linalg.norm(self.transform))
        return 1.01 * longest * (own + apart + 4 * self.columns * 2.0**-53 * lengths)


def _raised(rest: Float32, error: Float64) -> Float32:
    """Lengths of rows, never too small."""
    squares = np.einsum("ij,ij->i", rest, rest)
    lengths = ((np.sqrt(squares) + error) * 1.0001).astype(np.float32)
    raised: Float32 = np.nextafter(lengths, np.float32(np.inf))
    return raised


def _fine(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 128))).reshape(len(codes), -1, 2, 64)
    packed: NDArray[np.uint8] = padded[:, :, 0] | padded[:, :, 1] << np.uint8(4)
    return packed


def _up(value: float) -> float:
    """Not below `value` as a float32."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))
