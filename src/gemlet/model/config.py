"""What a model is: shapes and constants, checked once, with their costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import Literal

from gemlet.errors import InvalidRequestError
from gemlet.model.families import FAMILIES

LayerType = Literal["local", "global"]

MAX_LAYERS = 1 << 10
MAX_WIDTH = 1 << 24
"""The largest width, count or length a configuration may state: far above any model's."""

_WIDTHS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "query_width",
    "context_length",
    "sliding_window",
)


class ConfigValueError(InvalidRequestError):
    """A configuration that cannot be: names the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"model configuration: {field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder. Widths are in elements, `rope_*theta` are bases, ids token ids.

    `rope_divisors`: what the global layers' frequencies are divided by, one for each pair of a head's
    elements, or none. Raises ConfigValueError for values that cannot be.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_types: tuple[LayerType, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    sliding_window: int
    rope_theta: float
    rope_local_theta: float
    rms_norm_eps: float
    attention_scale: float
    embedding_scale: float
    tie_word_embeddings: bool
    bos_id: int
    stop_ids: tuple[int, ...]
    pad_id: int
    rope_divisors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in _WIDTHS:
            if not 1 <= getattr(self, field) <= MAX_WIDTH:
                raise ConfigValueError(field, f"must be from 1 to {MAX_WIDTH}")
        for field in ("rope_theta", "rope_local_theta", "rms_norm_eps", "attention_scale", "embedding_scale"):
            if not (isfinite(getattr(self, field)) and getattr(self, field) > 0):
                raise ConfigValueError(field, "must be a positive number")
        if self.family not in FAMILIES:
            raise ConfigValueError("family", f"is not one of {', '.join(FAMILIES)}")
        if not 1 <= self.num_layers <= MAX_LAYERS:
            raise ConfigValueError("layer_types", f"must be from 1 to {MAX_LAYERS} layers")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigValueError("num_attention_heads", "must be a multiple of num_key_value_heads")
        if self.head_dim % 2:
            raise ConfigValueError("head_dim", "must be even")
        if self.rope_divisors and len(self.rope_divisors) != self.head_dim // 2:
            raise ConfigValueError(
                "rope_divisors", f"must be {self.head_dim // 2} numbers, one for each pair"
            )
        if not all(isfinite(divisor) and divisor > 0 for divisor in self.rope_divisors):
            raise ConfigValueError("rope_divisors", "must be positive numbers")
        for field, ids in (("bos_id", [self.bos_id]), ("pad_id", [self.pad_id]), ("stop_ids", self.stop_ids)):
            if not ids or not all(0 <= id < self.vocab_size for id in ids):
                raise ConfigValueError(field, f"must be token ids below {self.vocab_size}")

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def window(self, layer: int) -> int | None:
        """Positions a layer sees, the current one included; None for all."""
        return self.sliding_window if self.layer_types[layer] == "local" else None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name -> shape of every tensor: (rows, columns) of matrices, (n,) of norms."""
        rules = FAMILIES[self.family].tensor_rules(self.num_layers, self.tie_word_embeddings)
        return {name: tuple(getattr(self, s) for s in rule.shape) for name, (_, rule) in rules.items()}

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part: `embedding` (and an untied head), `linear` (matrices of layers), `norm`."""
        counts = {"embedding": 0, "linear": 0, "norm": 0}
        for name, shape in self.tensor_shapes().items():
            part = "norm" if len(shape) == 1 else "linear" if name.startswith("blk.") else "embedding"
            counts[part] += prod(shape)
        return counts

    def kv_bytes(self, positions: int, element_bytes: int = 2) -> int:
        """Bytes of keys and values that a sequence of this length needs: local layers keep a window only."""
        kept = sum(
            positions if window is None else min(positions, window)
            for window in map(self.window, range(self.num_layers))
        )
        return kept * 2 * self.key_value_width * element_bytes

    def flops(self, position: int, logits: bool = True) -> int:
        """Floating point operations of a token at `position`: matrices, attention, the head if asked for."""
        attended = sum(
            position + 1 if window is None else min(position + 1, window)
            for window in map(self.window, range(self.num_layers))
        )
        matrices = self.parameter_counts()["linear"] + logits * self.vocab_size * self.hidden_size
        return 2 * matrices + 4 * attended * self.query_width
