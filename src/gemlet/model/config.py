"""What a model is: shapes and constants, checked once, with their costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerType = Literal["local", "global"]


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder. Widths are in elements, `rope_*` are bases (theta), ids are token ids."""

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
