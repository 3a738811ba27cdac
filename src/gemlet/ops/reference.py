"""The operations in NumPy float32, slow and obvious: the specification for every other executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError, StateError
from gemlet.ops.batch import Batch, Page, StepOutput
from gemlet.ops.operations import CacheLayer, Float32, LowRank, Program, Rows, frequencies
from gemlet.ops.packed import Packed, unpack
from gemlet.ops.reference_state import Place, ReferencePage, ReferenceState, first_needed_page, join
from gemlet.ops.sketch import HeadSketch

CacheType = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False)
class ReferenceAdapter:
    """Parts with the weights they belong to; a weight is told from others by being that object."""

    parts: tuple[tuple[Packed, LowRank], ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for _, part in self.parts)

    def part(self, weight: Packed) -> LowRank | None:
        """What is added to the products with `weight`."""
        return next((part for known, part in self.parts if known is weight), None)


class ReferenceOperations:
    """The operations of one step, computed at once. Handles are float32 arrays [rows, width]."""

    def __init__(self, batch: Batch, unpacked: Callable[[Packed], Float32]) -> None:
        self._batch = batch
        self._unpacked = unpacked
        self.outputs: dict[Rows, Float32] = {}

    def embed(self, table: Packed, scale: float) -> Float32:
        rows: Float32 = self._unpacked(table)[self._batch.ids] * np.float32(scale)
        return rows

    def norm(self, x: Float32, weight: Float32, eps: float) -> Float32:
        groups = x.reshape(len(x), x.shape[1] // len(weight), len(weight))
        mean_square = np.mean(groups * groups, axis=-1, keepdims=True)
        normed: Float32 = groups / np.sqrt(mean_square + np.float32(eps)) * weight
        return normed.reshape(x.shape)

    def linear(self, x: Float32, weight: Packed, precise: bool = False) -> Float32:
        product: Float32 = x @ self._unpacked(weight).T
        end = 0
        for adapter, rows in zip(self._batch.adapters, self._batch.rows, strict=False):
            start, end = end, end + rows
            assert adapter is None or isinstance(adapter, ReferenceAdapter)
            if adapter is not None and (part := adapter.part(weight)) is not None:
                a, b = unpack(part.a), unpack(part.b)
                product[start:end] += np.float32(part.scale) * (x[start:end] @ a.T @ b.T)
        return product

    def add_bias(self, x: Float32, bias: Float32) -> Float32:
        return x + bias

    def rope(self, x: Float32, head_dim: int, theta: float, divisors: tuple[float, ...] = ()) -> Float32:
        turns = frequencies(head_dim, theta, divisors)
        angles = self._batch.positions[:, None, None].astype(np.float32) * turns
        cos, sin = np.cos(angles), np.sin(angles)
        heads = x.reshape(len(x), x.shape[1] // head_dim, head_dim)
        left, right = heads[..., : head_dim // 2], heads[..., head_dim // 2 :]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).reshape(x.shape)

    def attend(
        self,
        q: Float32,
        k: Float32,
        v: Float32,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None,
    ) -> Float32:
        result = np.empty_like(q)
        end = 0
        for state, rows in zip(self._batch.states, self._batch.rows, strict=True):
            start, end = end, end + rows
            assert isinstance(state, ReferenceState)
            first, keys, values = state.store(layer, k[start:end], v[start:end])
            queries = q[start:end].reshape(rows, kv_heads, heads // kv_heads, head_dim)
            keys = keys.reshape(-1, kv_heads, head_dim)
            values = values.reshape(-1, kv_heads, head_dim)
            distance = self._batch.positions[start:end, None] - np.arange(first, first + len(keys))
            visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            scores = np.einsum("rghd,pgd->ghrp", queries, keys, optimize=True) * np.float32(scale)
            weights = softmax(np.where(visible, scores, np.float32(-np.inf)))
            result[start:end] = np.einsum("ghrp,pgd->rghd", weights, values, optimize=True).reshape(rows, -1)
        return result

    def gelu_gate(self, gate: Float32, up: Float32) -> Float32:
        inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate * gate * gate)
        gated: Float32 = np.float32(0.5) * gate * (np.float32(1) + np.tanh(inner)) * up
        return gated

    def silu_gate(self, gate: Float32, up: Float32) -> Float32:
        with np.errstate(over="ignore"):  # exp of a very negative gate is infinity, and the result 0
            gated: Float32 = gate / (np.float32(1) + np.exp(-gate)) * up
        return gated

    def add(self, x: Float32, y: Float32) -> Float32:
        return x + y

    def select(self, x: Float32, rows: Rows) -> Float32:
        wanted: Float32 = x[self._batch.logits if rows == "logits" else self._batch.hidden]
        return wanted

    def output(self, name: Rows, x: Float32) -> None:
        self.outputs[name] = x


def softmax(scores: Float32) -> Float32:
    """Along the last axis. A row of nothing but -inf is not allowed."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Float32 = powers / powers.sum(axis=-1, keepdims=True)
    return total


class ReferenceExecutor:
    """Runs a program step by step with `ReferenceOperations`; keeps every weight it met as float32.

    NumPy has threads of its own, so `threads` must be None. `cache_type` is what keys and values are rounded
    to before any use.
    """

    instruction_set = "numpy"
    build = np.__version__
    activation_type = "float32"
    operations = ReferenceOperations

    def __init__(
        self, program: Program, *, threads: int | None = None, cache_type: str | None = None
    ) -> None:
        if threads is not None:
            raise InvalidRequestError("the reference executor cannot set its number of threads")
        if cache_type not in (None, "float32", "float16"):
            raise InvalidRequestError(f"the reference executor has no cache type {cache_type!r}")
        self._program = program
        self._dtype = np.dtype(cache_type or "float32")
        self._unpacked: dict[int, tuple[Packed, Float32]] = {}

    @property
    def threads(self) -> int:
        return 1

    @property
    def cache_type(self) -> str:
        return str(self._dtype)

    def new_state(self) -> ReferenceState:
        return ReferenceState(self._program.layers, self._dtype)

    def first_needed_page(self, length: int) -> int:
        return first_needed_page(self._program.layers, length)

    def join(self, pages: Sequence[Page], local_pages: Sequence[Page], length: int) -> ReferenceState:
        return join(self._program.layers, self._dtype, pages, local_pages, length)

    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> ReferencePage:
        return ReferencePage.restore(self._program.layers, self._dtype, Place(index, local, rows), data)

    def adapter(self, parts: Sequence[tuple[Packed, LowRank]]) -> ReferenceAdapter:
        for weight, part in parts:
            rank = part.a.rows
            shapes = (rank, weight.columns), (weight.rows, rank)
            if ((part.a.rows, part.a.columns), (part.b.rows, part.b.columns)) != shapes:
                raise InvalidRequestError("adapter: made for a matrix of another shape")
        return ReferenceAdapter(tuple(parts))

    def step(self, batch: Batch) -> StepOutput:
        for state in batch.states:
            if not isinstance(state, ReferenceState) or not state.fits(self._program.layers, self._dtype):
                raise StateError("a state in the batch belongs to another model or executor")
        if not all(adapter is None or isinstance(adapter, ReferenceAdapter) for adapter in batch.adapters):
            raise StateError("an adapter in the batch belongs to another executor")
        operations = self.operations(batch, self._unpack)
        self._program.forward(operations)
        for state, rows in zip(batch.states, batch.rows, strict=True):
            assert isinstance(state, ReferenceState)
            state.advance(rows)
        return StepOutput(operations.outputs["logits"], operations.outputs["hidden"])

    def kv_bytes(self, positions: int) -> int:
        return sum(self._layer_bytes(layer, positions) for layer in self._program.layers)

    def top_k(self, logits: Float32, k: int) -> tuple[NDArray[np.int32], Float32]:
        ids = np.argsort(-logits, kind="stable")[:k]
        return ids.astype(np.int32), logits[ids]

    def logsumexp(self, logits: Float32) -> float:
        largest = float(logits.max())
        return largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))

    def use_sketch(self, sketch: HeadSketch) -> None:
        """Ignored: this executor computes every logit."""

    def close(self) -> None:
        self._unpacked.clear()

    def _layer_bytes(self, layer: CacheLayer, positions: int) -> int:
        kept = positions - ReferenceState.first_kept(layer, positions)
        return 2 * kept * layer.kv_heads * layer.head_dim * self._dtype.itemsize

    def _unpack(self, weight: Packed) -> Float32:
        if id(weight) not in self._unpacked:
            # The packed value is kept beside its key, so that no other object can take its id.
            self._unpacked[id(weight)] = (weight, unpack(weight))
        return self._unpacked[id(weight)][1]
