"""Seconds of a step: what it reads and computes, at the machine's rates, as well as this engine uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gemlet.model.config import ModelConfig
from gemlet.model.decoder import MAX_ROWS
from gemlet.model.work import attention_products
from gemlet.ops.limits import Limits
from gemlet.plan.efficiency import Curve, Efficiency, at
from gemlet.plan.subject import Matrices, Subject


@dataclass(frozen=True)
class Step:
    """`streams` sequences of `length` tokens that grow by `rows` each. `logits`: rows that need theirs,
    each from the whole head.
    """

    length: int = 0
    streams: int = 1
    rows: int = 1
    logits: int = 1


@dataclass(frozen=True)
class StepTime:
    """Seconds by part."""

    layers: float
    head: float
    attention: float
    fixed: float

    @property
    def total(self) -> float:
        return self.layers + self.head + self.attention + self.fixed


@dataclass(frozen=True)
class CostModel:
    """The cost of any step of a model on a machine with these rates."""

    subject: Subject
    rates: Limits
    efficiency: Efficiency

    def seconds(self, step: Step) -> float:
        """Of a step of at most 256 rows, as the engine makes them."""
        return self.parts(step).total

    def parts(self, step: Step) -> StepTime:
        config, rows = self.subject.config, step.streams * step.rows
        values = rows * config.num_layers * config.hidden_size
        fixed = values * self.efficiency.layer_row / self.rates.float_products
        return StepTime(
            layers=self._matrices(self.subject.layers, self.efficiency.layers, rows),
            head=self._matrices(self.subject.head, self.efficiency.head, step.logits) if step.logits else 0.0,
            attention=self._attention(config, step),
            fixed=fixed + config.num_layers * self.efficiency.layer_s,
        )

    def prompt_seconds(self, tokens: int) -> float:
        """Reading a prompt, step by step, to the logits of its last token."""
        return sum(self.seconds(step) for step in prompt_steps(tokens))

    def _matrices(self, matrices: Matrices, curves: Mapping[str, Curve], rows: int) -> float:
        compute = 0.0
        for format, weights in matrices.values_by_format.items():
            dense = not format.startswith("i")
            rate = self.rates.float_products if dense else self.rates.byte_products
            compute += weights * at(curves["bf16" if dense else format], rows) / rate
        return self._overlapped(matrices.bytes / self.rates.read_bytes, compute)

    def _attention(self, config: ModelConfig, step: Step) -> float:
        last = step.length + step.rows - 1
        # Each row attends to one position more than the one before it, until the window is full.
        ends = attention_products(config, step.length) + attention_products(config, last)
        cost = at(self.efficiency.attention, step.rows) / step.rows
        compute = step.streams * step.rows * ends / 2 * cost / self.rates.float_products
        read = step.streams * config.kv_bytes(last + 1) / self.rates.read_bytes
        return self._overlapped(read, compute)

    def _overlapped(self, read: float, compute: float) -> float:
        power, largest = self.efficiency.sharpness, max(read, compute)
        if largest == 0:
            return 0.0
        return float(largest * ((read / largest) ** power + (compute / largest) ** power) ** (1 / power))


def prompt_steps(tokens: int) -> Iterator[Step]:
    """The steps that read a prompt."""
    for start in range(0, tokens, MAX_ROWS):
        rows = min(MAX_ROWS, tokens - start)
        yield Step(start, 1, rows, 1 if start + rows == tokens else 0)
