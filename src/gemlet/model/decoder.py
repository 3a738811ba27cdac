"""The forward pass, written once, and `Decoder`, which runs it step by step on an executor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ContextLengthError, InvalidRequestError, ModelClosedError
from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES
from gemlet.ops.batch import Adapter, Batch, Page, State, StepOutput
from gemlet.ops.native import NativeExecutor
from gemlet.ops.operations import CacheLayer, Executor, LowRank, Operations, Program
from gemlet.ops.reference import ReferenceExecutor
from gemlet.ops.sketch import HeadSketch

if TYPE_CHECKING:
    from gemlet.model.weights import Weights

X = TypeVar("X")

MAX_ROWS = 256
"""Rows of the largest step."""

EXECUTORS: dict[str, Callable[..., Executor]] = {"native": NativeExecutor, "reference": ReferenceExecutor}
"""Each is called as `make(program, threads=..., cache_type=...)`."""


def forward(ops: Operations[X], config: ModelConfig, weights: Weights) -> None:
    """Token ids to logits and final hidden states, in the words of `ops`."""
    x = ops.embed(weights.packed["token_embd"], config.embedding_scale)
    for index in range(config.num_layers):
        x = layer(ops, config, weights, index, x)
    norm, head = weights.vectors["output_norm"], weights.packed.get("output", weights.packed["token_embd"])
    ops.output("hidden", ops.norm(ops.select(x, "hidden"), norm, config.rms_norm_eps))
    last = ops.norm(ops.select(x, "logits"), norm, config.rms_norm_eps)
    ops.output("logits", ops.linear(last, head, precise=True))


def layer(ops: Operations[X], config: ModelConfig, weights: Weights, index: int, x: X) -> X:
    """One layer: attention, then the feed-forward part, each added to what it read."""
    x = ops.add(x, _attention(ops, config, weights, index, x))
    return ops.add(x, _feed_forward(ops, config, weights, index, x))


def _attention(ops: Operations[X], config: ModelConfig, weights: Weights, layer: int, x: X) -> X:
    prefix, window = f"blk.{layer}.", config.window(layer)
    theta = config.rope_theta if window is None else config.rope_local_theta
    divisors = config.rope_divisors if window is None else ()
    x = _norm(ops, config, weights, prefix + "attn_norm", x)
    q = _linear(ops, weights, prefix + "attn_q", x)
    k = _linear(ops, weights, prefix + "attn_k", x)
    v = _linear(ops, weights, prefix + "attn_v", x)
    q = ops.rope(_norm(ops, config, weights, prefix + "attn_q_norm", q), config.head_dim, theta, divisors)
    k = ops.rope(_norm(ops, config, weights, prefix + "attn_k_norm", k), config.head_dim, theta, divisors)
    x = ops.attend(
        q,
        k,
        v,
        layer=layer,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        scale=config.attention_scale,
        window=window,
    )
    x = _linear(ops, weights, prefix + "attn_output", x)
    return _norm(ops, config, weights, prefix + "post_attention_norm", x)


def _feed_forward(ops: Operations[X], config: ModelConfig, weights: Weights, layer: int, x: X) -> X:
    prefix = f"blk.{layer}."
    gated = ops.silu_gate if FAMILIES[config.family].activation == "silu" else ops.gelu_gate
    x = _norm(ops, config, weights, prefix + "ffn_norm", x)
    gate = _linear(ops, weights, prefix + "ffn_gate", x)
    up = _linear(ops, weights, prefix + "ffn_up", x)
    x = _linear(ops, weights, prefix + "ffn_down", gated(gate, up))
    return _norm(ops, config, weights, prefix + "post_ffw_norm", x)


# A model has the norms and biases that its family lists; loading has checked that they are there.


def _norm(ops: Operations[X], config: ModelConfig, weights: Weights, name: str, x: X) -> X:
    """x normed, where the model has this norm."""
    weight = weights.vectors.get(name)
    return x if weight is None else ops.norm(x, weight, config.rms_norm_eps)


def _linear(ops: Operations[X], weights: Weights, name: str, x: X) -> X:
    """The product with a matrix, and its bias where the model has one."""
    product, bias = ops.linear(x, weights.packed[name]), weights.vectors.get(name + ".bias")
    return product if bias is None else ops.add_bias(product, bias)


class Decoder:
    """A model ready to run: token ids and states in, logits out.

    For one thread at a time, in the process that made it. executor: "native", "reference", or what makes one.
    threads: None lets the executor choose. cache_type: element type of keys and values, None for the
    executor's default.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        executor: str | Callable[..., Executor] = "native",
        threads: int | None = None,
        cache_type: str | None = None,
    ) -> None:
        make = EXECUTORS.get(executor) if isinstance(executor, str) else executor
        if make is None:
            raise InvalidRequestError(f"no executor {executor!r}; there is {', '.join(sorted(EXECUTORS))}")
        window = [config.window(layer) for layer in range(config.num_layers)]
        layers = tuple(CacheLayer(config.num_key_value_heads, config.head_dim, w) for w in window)
        program = Program(
            lambda ops: forward(ops, config, weights),
            layers,
            config.vocab_size,
            config.context_length,
            MAX_ROWS,
        )
        self.config = config
        self.max_rows = MAX_ROWS
        self._packed = weights.packed
        self._executor: Executor | None = make(program, threads=threads, cache_type=cache_type)
        self._process = os.getpid()

    @property
    def instruction_set(self) -> str:
        return self._running().instruction_set

    @property
    def threads(self) -> int:
        return self._running().threads

    @property
    def cache_type(self) -> str:
        return self._running().cache_type

    @property
    def activation_type(self) -> str:
        return self._running().activation_type

    @property
    def build(self) -> str:
        """Identifies the compiled code that runs: another build may give other bits."""
        return self._running().build

    def new_state(self) -> State:
        """An empty sequence."""
        return self._running().new_state()

    def first_needed_page(self, length: int) -> int:
        """The first page of which a sequence of that length needs the local layers to go on."""
        return self._running().first_needed_page(length)

    def join(self, pages: Sequence[Page], local_pages: Sequence[Page], length: int) -> State:
        """The sequence of `length` positions in these pages; StateError when they are others.

        pages: of the global layers, from page 0 on. local_pages: of the local layers, which end where
        `pages` do and begin with `first_needed_page(length)` or an earlier one.
        """
        return self._running().join(pages, local_pages, length)

    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> Page:
        """The page that `Page.save` turned into bytes; StateError when they are altered or do not fit."""
        return self._running().restore_page(index, local, rows, data)

    def adapter(self, parts: Mapping[str, LowRank]) -> Adapter:
        """What is added to the products with some matrices, by canonical name, for `Batch.adapters`.

        Any thread may call it. InvalidRequestError for a matrix that the model has not, or of another shape.
        """
        unknown = sorted(parts.keys() - self._packed.keys())
        if unknown:
            raise InvalidRequestError(f"adapter: the model has no matrix {unknown[0]!r}")
        return self._running().adapter([(self._packed[name], part) for name, part in parts.items()])

    def step(self, batch: Batch) -> StepOutput:
        """Run at most `max_rows` rows and advance the states of `batch`. A step that raises advances none."""
        executor = self._running()
        if len(batch.ids) > self.max_rows:
            raise InvalidRequestError(f"batch: {len(batch.ids)} rows, a step takes at most {self.max_rows}")
        batch.check_ids(self.config.vocab_size)
        length = int(batch.positions.max()) + 1
        if length > self.config.context_length:
            raise ContextLengthError(length, self.config.context_length)
        return executor.step(batch)

    def kv_bytes(self, positions: int) -> int:
        """Bytes a state of that many positions holds between steps, at most."""
        return self._running().kv_bytes(positions)

    def top_k(self, logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k largest of a row [vocab]: ids and values, descending; equal values by ascending id."""
        return self._running().top_k(logits, k)

    def logsumexp(self, logits: NDArray[np.float32]) -> float:
        """log(sum(exp(row))) of a row [vocab]: what turns a logit into a log-probability."""
        return self._running().logsumexp(logits)

    def use_sketch(self, sketch: HeadSketch) -> None:
        """Read less of the head where a batch needs only the largest logits; results stay the same bits."""
        self._running().use_sketch(sketch)

    def close(self) -> None:
        """Release the executor's threads and memory. Calling it again does nothing."""
        if self._executor is not None and self._process == os.getpid():
            self._executor.close()
        self._executor = None

    def _running(self) -> Executor:
        if self._executor is None:
            raise ModelClosedError("the model is closed")
        if self._process != os.getpid():
            raise ModelClosedError(
                "the model was opened by another process", hint="open it again after the fork"
            )
        return self._executor
