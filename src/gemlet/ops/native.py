"""The recorded forward pass on the C++ kernels: one call a step, without the interpreter lock."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from gemlet import machine
from gemlet.errors import ConfigError, InvalidRequestError, StateError
from gemlet.machine.processor import InstructionSet
from gemlet.ops import _native
from gemlet.ops.batch import Batch, Largest, Page, StepOutput
from gemlet.ops.operations import Float32, LowRank, Program, frequencies
from gemlet.ops.packed import PANEL, Packed
from gemlet.ops.record import Recorder, lower
from gemlet.ops.sketch import ARRAYS, HeadSketch

FORMATS = ("i4", "i8", "i4m", "i8m", "i8h", "f32", "f16", "bf16")
"""Numbered as in native/include/gemlet/types.h."""


MOST_THREADS = 256
"""What the native library accepts."""


class NativePage:
    """A page of a sequence, whose memory it shares."""

    def __init__(self, page: Any) -> None:
        self.native = page

    @property
    def rows(self) -> int:
        return cast(int, self.native.rows)

    @property
    def nbytes(self) -> int:
        return cast(int, self.native.nbytes)

    def save(self) -> bytes:
        return cast(bytes, self.native.save())


class NativeState:
    """Keys and values of one sequence, held by the native library in pages of 64 positions."""

    def __init__(self, state: Any) -> None:
        self.native = state

    @property
    def length(self) -> int:
        return cast(int, self.native.length)

    @property
    def nbytes(self) -> int:
        return cast(int, self.native.nbytes)

    def copy(self) -> NativeState:
        """The same content; pages are shared until one of the two writes to them."""
        return NativeState(self.native.copy())

    def trim(self, length: int) -> None:
        try:
            self.native.trim(length)
        except IndexError as error:
            raise StateError(str(error)) from None

    @property
    def first_page(self) -> int:
        return cast(int, self.native.first_page)

    def page(self, index: int, local: bool) -> NativePage:
        try:
            return NativePage(self.native.page(index, local))
        except IndexError as error:
            raise StateError(str(error)) from None


@dataclass(frozen=True, eq=False)
class NativeAdapter:
    """An adapter checked by the native library, which borrows its arrays."""

    native: Any
    nbytes: int


class NativeExecutor:
    """Runs a program on the best kernels of this processor, or on those that GEMLET_ISA names."""

    cache_type = "float16"
    activation_type = "int8 in blocks of 32 with a spare group, int16 for the head"

    def __init__(
        self, program: Program, *, threads: int | None = None, cache_type: str | None = None
    ) -> None:
        if cache_type not in (None, self.cache_type):
            raise InvalidRequestError(
                f"the native executor keeps keys and values in {self.cache_type}, not {cache_type}"
            )
        recorder = Recorder()
        program.forward(recorder)
        lowered = lower(recorder)
        self._vocab_size, self._hidden_size = program.vocab_size, self._output_width(recorder)
        self._rows = program.max_rows
        self._matrices = recorder.matrices
        layers = [tuple(recorder.layers[number]) for number in range(len(program.layers))]
        shape = (program.max_rows, self._vocab_size, self._hidden_size, program.context)
        self._program = _native.Program(
            choose_instruction_set(),
            threads or min(machine.threads().count, MOST_THREADS),
            shape,
            layers,
            lowered.buffers,
            lowered.quantised,
            [_matrix(packed) for packed in recorder.matrices],
            recorder.vectors,
            [frequencies(*rotation) for rotation in recorder.rotations],
            [(int(i.op), *i[1:]) for i in lowered.instructions],
        )

    @staticmethod
    def _output_width(recorder: Recorder) -> int:
        widths = {name: recorder.values[number].width for number, name in recorder.outputs.items()}
        return widths["hidden"]

    @property
    def instruction_set(self) -> str:
        return cast(str, self._program.instruction_set)

    @property
    def threads(self) -> int:
        return cast(int, self._program.threads)

    @property
    def build(self) -> str:
        return build_sha256()

    def new_state(self) -> NativeState:
        return NativeState(self._program.new_state())

    def first_needed_page(self, length: int) -> int:
        return cast(int, self._program.first_needed_page(length))

    def join(self, pages: Sequence[Page], local_pages: Sequence[Page], length: int) -> NativeState:
        both = [[p.native for p in kind if isinstance(p, NativePage)] for kind in (pages, local_pages)]
        if len(both[0]) + len(both[1]) != len(pages) + len(local_pages):
            raise StateError("a page belongs to another executor")
        try:
            return NativeState(self._program.join(*both, length))
        except ValueError as error:
            raise StateError(str(error)) from None

    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> NativePage:
        try:
            return NativePage(self._program.restore(local, index, rows, data))
        except ValueError as error:
            raise StateError(str(error)) from None

    def adapter(self, parts: Sequence[tuple[Packed, LowRank]]) -> NativeAdapter:
        numbers = {id(matrix): number for number, matrix in enumerate(self._matrices)}
        listed = [
            (numbers.get(id(weight), -1), _matrix(part.a), _matrix(part.b), part.scale)
            for weight, part in parts
        ]
        try:
            native = self._program.adapter(listed)
        except ValueError as error:
            raise InvalidRequestError(f"adapter: {error}") from None
        return NativeAdapter(native, sum(part.nbytes for _, part in parts))

    def step(self, batch: Batch) -> StepOutput:
        states = [state.native for state in batch.states if isinstance(state, NativeState)]
        if len(states) != len(batch.states):
            raise StateError("a state in the batch belongs to another executor")
        adapters = [a.native if isinstance(a, NativeAdapter) else a for a in batch.adapters]
        top = min(batch.top, self._vocab_size)
        logits = _rows(0 if top else len(batch.logits), self._vocab_size)
        ids = np.empty((len(batch.logits), top), np.int32)
        values = np.empty(ids.shape, np.float32)
        hidden = _rows(len(batch.hidden), self._hidden_size)
        try:
            self._program.step(
                batch.ids,
                batch.positions,
                states,
                list(batch.rows),
                batch.logits,
                batch.hidden,
                logits,
                hidden,
                adapters,
                top,
                ids,
                values,
                self._allowed(batch.allowed),
            )
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        largest = tuple(map(Largest, ids, values)) if top else None
        if largest and batch.allowed:
            counts = np.count_nonzero(ids >= 0, axis=1)
            largest = tuple(Largest(i[:n], v[:n]) for i, v, n in zip(ids, values, counts, strict=True))
        return StepOutput(logits[:, : self._vocab_size], hidden[:, : self._hidden_size], largest)

    def _allowed(self, allowed: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.uint16]:
        """Whole panels of bits for each row; empty where every row has all ids."""
        if all(bits is None for bits in allowed):
            return np.empty(0, "<u2")
        panels, size = -(-self._vocab_size // PANEL), -(-self._vocab_size // 8)
        words = np.full((len(allowed), panels), 0xFFFF, "<u2")
        for row, bits in zip(words.view(np.uint8), allowed, strict=True):
            if bits is not None:
                if bits.dtype != np.uint8 or bits.shape != (size,):
                    raise InvalidRequestError(f"batch: bits of {bits.shape} ids, expected uint8 [{size}]")
                row[:size] = bits
        return words

    def use_sketch(self, sketch: HeadSketch) -> None:
        shape = sketch.rows, sketch.columns, sketch.bytes, sketch.nibbles, min(sketch.top, sketch.rows)
        arrays = tuple(sketch.arrays[name] for name in ARRAYS)
        try:
            self._program.set_head(shape, arrays, sketch.bounds)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None

    def take_head_counts(self) -> dict[str, int]:
        """What the sketch left to do since the last call, summed over rows of logits.

        queries: rows it was used for; whole: rows it could not be used for; doubtful: rows of the head whose
        fine codes were read; likely: those that these left; panels: of 16 rows of the head, computed.
        """
        names = ("queries", "whole", "doubtful", "likely", "panels")
        return dict(zip(names, self._program.take_head_counts(), strict=True))

    def kv_bytes(self, positions: int) -> int:
        return cast(int, self._program.price(positions, min(positions, self._rows)))

    def top_k(self, logits: Float32, k: int) -> tuple[NDArray[np.int32], Float32]:
        ids = np.empty(min(k, len(logits)), np.int32)
        values = np.empty(len(ids), np.float32)
        self._program.top_k(logits, ids, values)
        return ids, values

    def logsumexp(self, logits: Float32) -> float:
        return cast(float, self._program.log_sum_exp(logits))

    def measure(self, on: bool) -> None:
        """Count the seconds that each kind of operation takes, from now on."""
        self._program.measure(on)

    def take_seconds(self) -> dict[str, float]:
        """The seconds counted since the last call, by operation."""
        from gemlet.ops.record import Op

        return {
            op.name.lower(): seconds for op, seconds in zip(Op, self._program.take_seconds(), strict=True)
        }

    def close(self) -> None:
        self._program = None


@functools.cache
def build_sha256() -> str:
    """The hash of the compiled library's file."""
    return hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()


def instruction_sets() -> list[str]:
    """Those that this processor and build have, the best first."""
    return [name for name in get_args(InstructionSet) if _native.instruction_set(name)]


def choose_instruction_set() -> str:
    """GEMLET_ISA where set, else the best of this processor. ConfigError when it is not to be had here."""
    wanted = os.environ.get("GEMLET_ISA") or "auto"
    found = cast("str | None", _native.instruction_set(wanted))
    if found is None:
        raise ConfigError(
            f"GEMLET_ISA={wanted}: this processor or build has no such instruction set",
            hint=f"unset it, or use one of {', '.join(instruction_sets())}",
        )
    return found


def _matrix(packed: Packed) -> tuple[int, int, int, Any, Any, Any]:
    arrays = packed.arrays
    codes = arrays["values"] if "values" in arrays else arrays["quants"]
    return (
        FORMATS.index(packed.format),
        packed.rows,
        packed.columns,
        codes,
        arrays.get("scales"),
        arrays.get("mins"),
    )


def _rows(count: int, width: int) -> Float32:
    """Room for rows that the kernels pad to 16 floats."""
    return np.empty((count, -(-width // 16) * 16), np.float32)
