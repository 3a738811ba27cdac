"""`quantize`: which tensors become which kind, and the codes of those that are searched.

The search goes through the model from its first layer to its last. Inputs are gathered with what is already
quantised in place, so that later matrices make up for earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.int4_search import search, weighted_error
from gemlet.convert.tensors import OutputTensor, encoded, kept, of_blocks, values_of
from gemlet.errors import InvalidRequestError
from gemlet.formats.blocks import Blocks
from gemlet.formats.dequantize import dequantize
from gemlet.formats.quantize import GROUP, quantize_q4_0, quantize_q8_0
from gemlet.formats.tensors import Tensor
from gemlet.model.decoder import Decoder
from gemlet.model.sources import Source
from gemlet.model.weights import Weights
from gemlet.ops.batch import Batch
from gemlet.ops.operations import Program
from gemlet.ops.recording import RecordingExecutor

Method = Literal["search", "plain"]
Step = Callable[[str, int, int], None]
"""Called with what was done, the work done and all of it."""

TYPES = ("q8_0", "q4_0")
HEADS = ("token_embd", "output")
ON_GRID = 0.02
"""Relative error of plain rounding below which a tensor lies on the Q4_0 grid; others have about 0.09."""

MOMENT_BYTES = 1 << 29
"""Of second moments in memory at a time."""


@dataclass(frozen=True)
class Plan:
    """The kind of each matrix, by canonical name. `searched`: those whose codes are searched."""

    kinds: Mapping[str, str]
    searched: tuple[str, ...]
    on_grid: tuple[str, ...]


@dataclass(frozen=True)
class TensorError:
    """`error`: root mean square, relative to the values.

    `output_error`: of the products with the calibration text's inputs, relative to theirs, and
    `plain_output_error` that of plain rounding; None where nothing was searched.
    """

    name: str
    kind: str
    error: float
    output_error: float | None = None
    plain_output_error: float | None = None


@dataclass(frozen=True, eq=False)
class Quantized:
    """Tensors to write, and what each lost."""

    tensors: Mapping[str, OutputTensor]
    errors: tuple[TensorError, ...]


def plan(source: Source, type: str, method: Method = "search", embedding: str = "q8_0") -> Plan:
    """What every matrix becomes. Those on the Q4_0 grid are rounded plainly: a search would move them off.

    Raises InvalidRequestError for an unknown type or method.
    """
    for what, value, known in (
        ("type", type, TYPES),
        ("embedding", embedding, (*TYPES, "keep")),
        ("method", method, ("search", "plain")),
    ):
        if value not in known:
            raise InvalidRequestError(f"--{what}: {value!r} is not one of {', '.join(known)}")
    kinds, searched, on_grid = {}, [], []
    for name, tensor in source.tensors.items():
        if len(tensor.shape) != 2:
            continue
        wanted = embedding if name in HEADS else type
        kind = tensor.kind if wanted == "keep" or tensor.columns % GROUP else wanted.upper()
        kinds[name] = kind
        if kind != "Q4_0" or name in HEADS:
            continue
        if tensor.kind == "Q4_0" or lies_on_grid(tensor):
            on_grid.append(name)
        elif method == "search":
            searched.append(name)
    return Plan(kinds, tuple(searched), tuple(on_grid))


def lies_on_grid(tensor: Tensor) -> bool:
    """Whether plain rounding to Q4_0 reproduces a matrix nearly exactly, as with weights trained for it."""
    values = dequantize(tensor)
    return relative_error(values, quantize_q4_0(values)) < ON_GRID


def relative_error(values: NDArray[np.float32], found: Blocks) -> float:
    """Root mean square of the error, relative to that of the values."""
    difference = found.values() - values
    square = float(np.vdot(values, values))
    return float(np.sqrt(np.vdot(difference, difference) / square)) if square else 0.0


def quantize(
    source: Source,
    weights: Weights,
    decided: Plan,
    calibration: Sequence[Sequence[int]] = (),
    step: Step = lambda what, done, total: None,
) -> Quantized:
    """Carry out a plan. weights: the source's, as stored. calibration: token ids of texts like those to come.

    Raises ModelFileError or FloatingPointError where values are not finite.
    """
    tensors: dict[str, OutputTensor] = {}
    errors: list[TensorError] = []
    total = sum(source.tensors[name].data.nbytes for name in decided.kinds)
    done = 0
    found = _searched(source, weights, decided, calibration)
    for name in [name for name in decided.kinds if name not in decided.searched]:
        tensor, kind = source.tensors[name], decided.kinds[name]
        if tensor.kind == kind:
            tensors[name] = kept(tensor)
            errors.append(TensorError(name, kind, 0.0))
        else:
            values = dequantize(tensor)
            blocks = quantize_q4_0(values) if kind == "Q4_0" else quantize_q8_0(values)
            tensors[name] = encoded(kind, tensor.shape, values_of(tensor))
            errors.append(TensorError(name, kind, relative_error(values, blocks)))
        done += tensor.data.nbytes
        step(name, done, total)
    for name, blocks, error in found:
        tensors[name] = of_blocks("Q4_0", source.tensors[name].shape, _given(blocks))
        errors.append(error)
        done += source.tensors[name].data.nbytes
        step(name, done, total)
    order = list(decided.kinds)
    return Quantized(tensors, tuple(sorted(errors, key=lambda error: order.index(error.name))))


def _given(blocks: Blocks) -> Callable[[], Blocks]:
    return lambda: blocks


def _searched(
    source: Source, weights: Weights, decided: Plan, calibration: Sequence[Sequence[int]]
) -> Iterator[tuple[str, Blocks, TensorError]]:
    """The blocks of every searched matrix, in the model's order."""
    if not decided.searched:
        return
    if sum(map(len, calibration)) < 2:
        raise InvalidRequestError("the search needs a text to gather inputs on")
    made: list[RecordingExecutor] = []

    def make(program: Program, **settings: None) -> RecordingExecutor:
        made.append(RecordingExecutor(program, **settings))
        return made[0]

    decoder = Decoder(source.config, weights, executor=make)
    executor = made[0]
    for names in groups(source, decided.searched):
        matrices = [weights.packed[name] for name in names]
        executor.watch(matrices)
        _read(decoder, calibration)
        for name, matrix in zip(names, matrices, strict=True):
            values, moments = executor.values(matrix), executor.moments(matrix)
            blocks = search(values, moments)
            error = TensorError(
                name,
                "Q4_0",
                relative_error(values, blocks),
                float(np.sqrt(weighted_error(values, blocks, moments))),
                float(np.sqrt(weighted_error(values, quantize_q4_0(values), moments))),
            )
            executor.replace(matrix, blocks.values())
            yield name, blocks, error
    decoder.close()


def groups(source: Source, names: Sequence[str]) -> list[list[str]]:
    """Matrices whose inputs are gathered together: whole layers, as many as their moments may take."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rsplit(".", 1)[0], []).append(name)
    found: list[list[str]] = []
    room = 0
    for layer in layers.values():
        size = sum(4 * source.tensors[name].columns ** 2 for name in layer)
        if not found or size > room:
            found.append([])
            room = MOMENT_BYTES
        found[-1] += layer
        room -= size
    return found


def _read(decoder: Decoder, texts: Sequence[Sequence[int]]) -> None:
    for ids in texts:
        state = decoder.new_state()
        for start in range(0, len(ids), decoder.max_rows):
            decoder.step(Batch.of([(state, ids[start : start + decoder.max_rows])], logits="none"))
