"""The operations a forward pass is written in.

An executor implements them: `reference` computes with NumPy at once, `native` records a program and runs
it later. A handle `X` stands for one float32 row per token of the step, `[rows, width]`; the number of rows
is never known to the forward pass, so nothing in it can depend on values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemlet.ops.batch import Adapter, Batch, Page, State, StepOutput
from gemlet.ops.packed import Packed
from gemlet.ops.sketch import HeadSketch

Float32 = NDArray[np.float32]
Rows = Literal["logits", "hidden"]
X = TypeVar("X")


class Operations(Protocol[X]):
    """What `model.decoder.forward` may ask for. Every operation keeps rows apart, except `attend`."""

    def embed(self, table: Packed, scale: float) -> X:
        """The batch's ids looked up in `table` [vocab, width], times `scale`."""

    def norm(self, x: X, weight: Float32, eps: float) -> X:
        """x / sqrt(mean(x²) + eps) * weight, over each group of len(weight) neighbours of a row."""

    def linear(self, x: X, weight: Packed, precise: bool = False) -> X:
        """x · weightᵀ. `precise` asks an executor with quantised activations for 16 bits instead of 8.

        To the rows of a state whose adapter has a `LowRank` for `weight`, its product is added.
        """

    def add_bias(self, x: X, bias: Float32) -> X:
        """x + bias, the same for every row."""

    def rope(self, x: X, head_dim: int, theta: float, divisors: tuple[float, ...] = ()) -> X:
        """Rotate element i of each head with i + head_dim/2 by position * theta^(-2i/head_dim) / divisors[i].

        divisors: one for each i, or none, which divides by 1.
        """

    def attend(
        self,
        q: X,
        k: X,
        v: X,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None,
    ) -> X:
        """Round k and v to the cache's type, store them, and attend to what the row may see.

        A row at position i sees positions j with i - window < j <= i; without a window all j <= i.
        Query head h uses key head h // (heads // kv_heads).
        """

    def gelu_gate(self, gate: X, up: X) -> X:
        """gelu(gate) * up, gelu in its tanh form."""

    def silu_gate(self, gate: X, up: X) -> X:
        """gate / (1 + exp(-gate)) * up."""

    def add(self, x: X, y: X) -> X:
        """x + y."""

    def select(self, x: X, rows: Rows) -> X:
        """Only the rows for which the batch asks logits, or the final hidden state."""

    def output(self, name: Rows, x: X) -> None:
        """Hand `x` out as a result of the step."""


def frequencies(head_dim: int, theta: float, divisors: tuple[float, ...] = ()) -> Float32:
    """What positions are multiplied by to give the angles of `rope`, float32 [head_dim / 2].

    Rounded to float32, and angles too, as the oracle does: at position 30,000 that moves an angle by up to
    2e-3, so it is part of the definition.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse: Float32 = np.float32(1) / (np.float64(theta) ** exponents).astype(np.float32)
    return (inverse / np.array(divisors, np.float64)).astype(np.float32) if divisors else inverse


@dataclass(frozen=True)
class CacheLayer:
    """What one layer keeps of each position: a key and a value of `kv_heads * head_dim` elements.

    `window`: positions a row sees, its own included; None for all.
    """

    kv_heads: int
    head_dim: int
    window: int | None


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter adds to a product: scale * (x · aᵀ) · bᵀ, in float32 of the unrounded x.

    a: dense [rank, columns of the weight]. b: dense [rows of the weight, rank].
    """

    a: Packed
    b: Packed
    scale: float

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True)
class Program:
    """What an executor is built from.

    The forward pass, the layers' caches, the vocabulary size of its ids, the most positions of a sequence,
    and the most rows of a step.
    """

    forward: Callable[[Operations[Any]], None]
    layers: tuple[CacheLayer, ...]
    vocab_size: int
    context: int
    max_rows: int


class Executor(Protocol):
    """Something that runs a `Program` step by step. `Decoder` checks batches before they get here."""

    @property
    def instruction_set(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def cache_type(self) -> str:
        """Element type of the cache, such as "float16"."""

    @property
    def activation_type(self) -> str:
        """What the inputs of products with quantised weights are rounded to, such as "float32"."""

    @property
    def build(self) -> str:
        """Identifies the compiled code that runs: another build may give other bits."""

    def new_state(self) -> State:
        """An empty sequence."""

    def first_needed_page(self, length: int) -> int:
        """The first page of which a sequence of that length needs the local layers to go on."""

    def join(self, pages: Sequence[Page], local_pages: Sequence[Page], length: int) -> State:
        """The sequence of `length` positions in these pages. StateError when they are others.

        pages: of the global layers, from page 0 on. local_pages: of the local layers, which end where
        `pages` do and begin with the first needed one or an earlier one.
        """

    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> Page:
        """The page that `Page.save` turned into bytes. StateError when they are altered or do not fit."""

    def adapter(self, parts: Sequence[tuple[Packed, LowRank]]) -> Adapter:
        """What is added to the products with some weights of the program, for `Batch.adapters`.

        Another thread may call it while a step runs. InvalidRequestError when a part does not fit.
        """

    def step(self, batch: Batch) -> StepOutput:
        """Run the rows of `batch` and advance its states. A step that raises advances none."""

    def kv_bytes(self, positions: int) -> int:
        """Bytes a state of that many positions holds between steps, at most."""

    def top_k(self, logits: Float32, k: int) -> tuple[NDArray[np.int32], Float32]:
        """The k largest of a row and their ids, descending; equal values by ascending id."""

    def logsumexp(self, logits: Float32) -> float:
        """log(sum(exp(row)))."""

    def use_sketch(self, sketch: HeadSketch) -> None:
        """Read less of the head, where a batch needs only the largest logits; the results stay the same."""

    def close(self) -> None:
        """Release threads and memory."""
