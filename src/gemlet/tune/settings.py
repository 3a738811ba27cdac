"""What a training run does, as plain values: written to its folder, compared when it is resumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import cos, isfinite, pi, sqrt
from typing import Any, Literal, get_args

from gemlet.errors import InvalidRequestError

Method = Literal["lora", "full", "dpo"]
Base = Literal["dense", "stored"]
"""How frozen matrices are held: in the type of the arithmetic, or in their blocks of 4 or 8 bits."""

Precision = Literal["bf16", "f32"]
"""The type of products. Sums, norms, the loss and what is trained are float32 in any case."""

TARGETS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""The matrices of a layer that can be adapted, by canonical name."""

LEARNING_RATES: dict[Method, float] = {"lora": 2e-4, "full": 1e-5, "dpo": 2e-5}
FINAL_RATE = 0.1
"""The learning rate falls to this share of itself, along a cosine."""


@dataclass(frozen=True)
class LoraSettings:
    """rank: of the two matrices. alpha: the product counts alpha / rank times, with `rooted` (rsLoRA)
    alpha / sqrt(rank) times. dropout: share of its inputs left out while training. targets: of TARGETS."""

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    rooted: bool = False
    targets: tuple[str, ...] = TARGETS

    @property
    def scale(self) -> float:
        return self.alpha / (sqrt(self.rank) if self.rooted else self.rank)


@dataclass(frozen=True)
class Settings:
    """batch_tokens: of an optimizer step, at most, unless one example is longer. length: of an example, at
    most. learning_rate: None for the method's own. warmup: share of all steps in which it rises. clip: the
    largest norm of a gradient. beta: of DPO. valid_every: steps between validations, None for four an epoch.
    patience: validations without a better loss before the run ends early, None never.

    Raises InvalidRequestError for values out of range.
    """

    method: Method = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    base: Base = "dense"
    precision: Precision = "bf16"
    epochs: int = 3
    batch_tokens: int = 2048
    length: int = 1024
    learning_rate: float | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    beta: float = 0.1
    seed: int = 0
    valid_every: int | None = None
    patience: int | None = 3

    def __post_init__(self) -> None:
        _one_of("method", self.method, get_args(Method))
        _one_of("base", self.base, get_args(Base))
        _one_of("precision", self.precision, get_args(Precision))
        unknown = sorted(set(self.lora.targets) - set(TARGETS))
        if unknown or not self.lora.targets:
            raise InvalidRequestError(f"targets: no {unknown[:1] or 'matrix'}; there is {', '.join(TARGETS)}")
        for name in ("epochs", "batch_tokens", "length"):
            _within(name, getattr(self, name), 1, 1 << 24)
        _within("rank", self.lora.rank, 1, 1024)
        _within("alpha", self.lora.alpha, 0, 1e6)
        _within("dropout", self.lora.dropout, 0, 0.95)
        _within("learning_rate", self.rate, 0, 10)
        _within("warmup", self.warmup, 0, 1)
        _within("weight_decay", self.weight_decay, 0, 1)
        _within("clip", self.clip, 1e-6, 1e6)
        _within("beta", self.beta, 1e-6, 100)
        _within("seed", self.seed, 0, 2**63 - 1)
        for name in ("valid_every", "patience"):
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), 1, 1 << 24)
        if self.method == "full" and self.base != "dense":
            raise InvalidRequestError("method full trains every value: its base cannot stay quantised")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.rate * (step + 1) / rising
        along = (step - rising) / max(1, steps - rising)
        return self.rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + cos(pi * along)) / 2)

    def document(self) -> dict[str, Any]:
        """As it is written."""
        document = asdict(self) | {"learning_rate": self.rate}
        document["lora"]["targets"] = list(self.lora.targets)
        if self.method == "full":
            del document["lora"]
        return document


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidRequestError(f"{name}: no {value!r}; there is {', '.join(allowed)}")


def _within(name: str, value: float, least: float, most: float) -> None:
    if not (isfinite(value) and least <= value <= most):
        raise InvalidRequestError(f"{name}: {value} is not between {least:g} and {most:g}")
