"""The least work a measurement needs, and the time this machine needs for it at its limits.

Counted is what no engine of this arithmetic can avoid: every weight read once in a step or prompt, the keys
and values read once for each new token (for a prompt once in all), the products of the matrices, and those
of attention. Norms, rotations, activations, sampling and writing count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemlet.model.config import ModelConfig
from gemlet.model.weights import Weights
from gemlet.ops.limits import Limits
from gemlet.ops.packed import Packed


@dataclass(frozen=True)
class Work:
    """Bytes read, and multiply-adds of quantised and of floating-point numbers."""

    bytes: int
    byte_products: int
    float_products: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.bytes + other.bytes,
            self.byte_products + other.byte_products,
            self.float_products + other.float_products,
        )

    def seconds(self, limits: Limits) -> float:
        """The least time: reading and computing overlap, products of both kinds do not."""
        return max(self.seconds_reading(limits), self.seconds_computing(limits))

    def seconds_reading(self, limits: Limits) -> float:
        return self.bytes / limits.read_bytes

    def seconds_computing(self, limits: Limits) -> float:
        return self.byte_products / limits.byte_products + self.float_products / limits.float_products


def step_work(config: ModelConfig, weights: Weights, position: int, streams: int = 1) -> Work:
    """One step of `streams` sequences, each with one token at `position` whose logits are wanted."""
    work = _matrices(config, weights, rows=streams, logit_rows=streams)
    one = Work(config.kv_bytes(position), 0, attention_products(config, position))
    return Work(streams * one.bytes, 0, streams * one.float_products) + work


def prompt_work(config: ModelConfig, weights: Weights, tokens: int) -> Work:
    """A prompt of which the last token's logits are wanted."""
    attention = sum(attention_products(config, position) for position in range(tokens))
    return _matrices(config, weights, tokens, 1) + Work(config.kv_bytes(tokens), 0, attention)


def _matrices(config: ModelConfig, weights: Weights, rows: int, logit_rows: int) -> Work:
    work = Work(0, 0, 0)
    head = "output" if "output" in weights.packed else "token_embd"
    for name, matrix in weights.packed.items():
        if name.startswith("blk."):
            work += _product(matrix, rows)
        elif name == head:
            work += _product(matrix, logit_rows)
    return work


def _product(matrix: Packed, rows: int) -> Work:
    products = matrix.rows * matrix.columns * rows
    dense = "values" in matrix.arrays
    return Work(matrix.nbytes, 0 if dense else products, products if dense else 0)


def attention_products(config: ModelConfig, position: int) -> int:
    """Multiply-adds of a token's queries with keys and of weights with values."""
    windows = map(config.window, range(config.num_layers))
    attended = sum(position + 1 if window is None else min(position + 1, window) for window in windows)
    return 2 * attended * config.query_width
