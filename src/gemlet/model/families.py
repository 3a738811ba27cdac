"""What is known about model families: data only. A new family is a new entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gemlet.types import Sampling


@dataclass(frozen=True)
class TensorRule:
    """One tensor: its canonical name, its name in Hugging Face files, the config fields of its shape.

    Names of a layer's tensors are without the layer's prefix. GGUF files use the canonical names. Where a
    name does not end in `.bias`, files put `.weight` behind it.
    """

    name: str
    hf_name: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class KnownDefect:
    """A value that published files of one shape carry by mistake."""

    hidden_size: int
    layers: int
    field: str
    wrong: int
    right: int


@dataclass(frozen=True)
class PieceType:
    """The type (as GGUF numbers it) that the pieces first to last of the family's vocabulary have."""

    first: int
    last: int
    type: int


@dataclass(frozen=True)
class Family:
    """A model family: how its files name things, what they leave unsaid, and what they get wrong.

    A layer has the norms and biases that `layer_tensors` lists. `configuration`: whose keys its files use.
    `head_dim` and `query_pre_attn_scalar` 0: the hidden size over the heads, and that. `stop_names`: control
    tokens that end an answer, where the vocabulary has them. `gguf_neighbouring_rope`: its GGUF files hold
    the rows of queries and keys in the order of a rotation that pairs neighbours.
    """

    name: str
    hf_architecture: str
    hf_model_type: str
    hf_layer_prefix: str
    hf_norm_offset: float
    global_tensors: tuple[TensorRule, ...]
    layer_tensors: tuple[TensorRule, ...]
    layer_pattern: int
    rope_theta: float
    rope_local_theta: float
    head_dim: int
    query_pre_attn_scalar: float
    rms_norm_eps: float
    activation: str
    bos_id: int
    pad_id: int
    base_stop_ids: tuple[int, ...]
    chat_stop_ids: tuple[int, ...]
    add_space_prefix: bool
    sampling: Sampling
    licence: str
    configuration: Literal["gemma", "llama"] = "gemma"
    tokenizer: Literal["sentencepiece", "byte-bpe"] = "sentencepiece"
    scales_embedding: bool = True
    tied_by_default: bool = True
    stop_names: tuple[str, ...] = ()
    gguf_neighbouring_rope: bool = False
    defects: tuple[KnownDefect, ...] = ()
    vocab_size: int = 0
    vocabulary_marks: Mapping[int, bytes] = field(default_factory=dict)
    piece_types: tuple[PieceType, ...] = ()

    def tensor_rules(self, layers: int, tied: bool) -> dict[str, tuple[str, TensorRule]]:
        """Of every tensor of a model: canonical name -> (name in Hugging Face files, rule)."""
        rules = {
            rule.name: (rule.hf_name, rule)
            for rule in self.global_tensors
            if not (tied and rule.name == "output")
        }
        for layer in range(layers):
            prefix = self.hf_layer_prefix.format(layer=layer)
            rules |= {
                f"blk.{layer}.{rule.name}": (prefix + rule.hf_name, rule) for rule in self.layer_tensors
            }
        return rules

    def expected_types(self) -> np.ndarray:
        """The type of every piece of the family's own vocabulary, int32 [vocab_size]; 1 if ordinary."""
        types = np.ones(self.vocab_size, np.int32)
        for part in self.piece_types:
            types[part.first : part.last + 1] = part.type
        return types


_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6

GEMMA3 = Family(
    name="gemma3",
    hf_architecture="Gemma3ForCausalLM",
    hf_model_type="gemma3_text",
    hf_layer_prefix="model.layers.{layer}.",
    hf_norm_offset=1.0,
    global_tensors=(
        TensorRule("token_embd", "model.embed_tokens", ("vocab_size", "hidden_size")),
        TensorRule("output", "lm_head", ("vocab_size", "hidden_size")),
        TensorRule("output_norm", "model.norm", ("hidden_size",)),
    ),
    layer_tensors=(
        TensorRule("attn_norm", "input_layernorm", ("hidden_size",)),
        TensorRule("attn_q", "self_attn.q_proj", ("query_width", "hidden_size")),
        TensorRule("attn_k", "self_attn.k_proj", ("key_value_width", "hidden_size")),
        TensorRule("attn_v", "self_attn.v_proj", ("key_value_width", "hidden_size")),
        TensorRule("attn_q_norm", "self_attn.q_norm", ("head_dim",)),
        TensorRule("attn_k_norm", "self_attn.k_norm", ("head_dim",)),
        TensorRule("attn_output", "self_attn.o_proj", ("hidden_size", "query_width")),
        TensorRule("post_attention_norm", "post_attention_layernorm", ("hidden_size",)),
        TensorRule("ffn_norm", "pre_feedforward_layernorm", ("hidden_size",)),
        TensorRule("ffn_gate", "mlp.gate_proj", ("intermediate_size", "hidden_size")),
        TensorRule("ffn_up", "mlp.up_proj", ("intermediate_size", "hidden_size")),
        TensorRule("ffn_down", "mlp.down_proj", ("hidden_size", "intermediate_size")),
        TensorRule("post_ffw_norm", "post_feedforward_layernorm", ("hidden_size",)),
    ),
    layer_pattern=6,
    rope_theta=1e6,
    rope_local_theta=1e4,
    head_dim=256,
    query_pre_attn_scalar=256,
    rms_norm_eps=1e-6,
    activation="gelu_pytorch_tanh",
    bos_id=2,
    pad_id=0,
    base_stop_ids=(1,),
    chat_stop_ids=(1, 106),
    add_space_prefix=False,
    sampling=Sampling(temperature=1.0, top_k=64, top_p=0.95),
    licence="gemma",
    defects=(
        KnownDefect(1152, 26, "sliding_window", wrong=1024, right=512),
        KnownDefect(640, 18, "sliding_window", wrong=1024, right=512),
    ),
    vocab_size=262144,
    vocabulary_marks={4: b"<mask>", 238: b"<0x00>", 255999: b"<start_of_image>", 262143: b"<unused6241>"},
    piece_types=(
        PieceType(0, 106, _CONTROL),
        PieceType(5, 5, _USER_DEFINED),
        PieceType(107, 237, _USER_DEFINED),
        PieceType(238, 493, _BYTE),
        PieceType(255968, 256000, _USER_DEFINED),
        PieceType(256001, 262143, _CONTROL),
    ),
)

_EMBEDDING_AND_HEAD = GEMMA3.global_tensors
_LLAMA_LAYER = (
    TensorRule("attn_norm", "input_layernorm", ("hidden_size",)),
    TensorRule("attn_q", "self_attn.q_proj", ("query_width", "hidden_size")),
    TensorRule("attn_k", "self_attn.k_proj", ("key_value_width", "hidden_size")),
    TensorRule("attn_v", "self_attn.v_proj", ("key_value_width", "hidden_size")),
    TensorRule("attn_output", "self_attn.o_proj", ("hidden_size", "query_width")),
    TensorRule("ffn_norm", "post_attention_layernorm", ("hidden_size",)),
    TensorRule("ffn_gate", "mlp.gate_proj", ("intermediate_size", "hidden_size")),
    TensorRule("ffn_up", "mlp.up_proj", ("intermediate_size", "hidden_size")),
    TensorRule("ffn_down", "mlp.down_proj", ("hidden_size", "intermediate_size")),
)
_BIASES = (
    TensorRule("attn_q.bias", "self_attn.q_proj.bias", ("query_width",)),
    TensorRule("attn_k.bias", "self_attn.k_proj.bias", ("key_value_width",)),
    TensorRule("attn_v.bias", "self_attn.v_proj.bias", ("key_value_width",)),
)
_HEAD_NORMS = (
    TensorRule("attn_q_norm", "self_attn.q_norm", ("head_dim",)),
    TensorRule("attn_k_norm", "self_attn.k_norm", ("head_dim",)),
)

LLAMA = Family(
    name="llama",
    hf_architecture="LlamaForCausalLM",
    hf_model_type="llama",
    hf_layer_prefix="model.layers.{layer}.",
    hf_norm_offset=0.0,
    global_tensors=_EMBEDDING_AND_HEAD,
    layer_tensors=_LLAMA_LAYER,
    layer_pattern=1,
    rope_theta=1e4,
    rope_local_theta=1e4,
    head_dim=0,
    query_pre_attn_scalar=0,
    rms_norm_eps=1e-6,
    activation="silu",
    bos_id=1,
    pad_id=0,
    base_stop_ids=(),
    chat_stop_ids=(),
    add_space_prefix=False,
    sampling=Sampling(temperature=0.6, top_p=0.9),
    licence="",
    configuration="llama",
    tokenizer="byte-bpe",
    scales_embedding=False,
    tied_by_default=False,
    stop_names=("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"),
    gguf_neighbouring_rope=True,
)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    hf_architecture="Qwen2ForCausalLM",
    hf_model_type="qwen2",
    layer_tensors=_LLAMA_LAYER + _BIASES,
    sampling=Sampling(temperature=0.7, top_k=20, top_p=0.8),
    gguf_neighbouring_rope=False,
)

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    hf_architecture="Qwen3ForCausalLM",
    hf_model_type="qwen3",
    layer_tensors=_LLAMA_LAYER + _HEAD_NORMS,
    sampling=Sampling(temperature=0.6, top_k=20, top_p=0.95),
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (GEMMA3, LLAMA, QWEN2, QWEN3)}


def file_name(name: str) -> str:
    """What files write for the name of a tensor rule."""
    return name if name.endswith(".bias") else f"{name}.weight"
