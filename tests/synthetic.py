"""Tiny random Gemma 3 files for tests: a GGUF file (by the gguf package) or a Hugging Face folder.

Both writers return the weights they stored as float32 under the canonical names (`blk.0.attn_q`, …), norm
weights ready to multiply, so that a test can compute with them directly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from gemlet.model.config import LayerType, ModelConfig
from tests.synthetic_tokenizer import REAL_VOCABULARIES, tiny_tokenizer, tiny_vocabulary

CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"

HF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def layer_types(layers: int, pattern: int = 6) -> tuple[LayerType, ...]:
    """Every `pattern`-th layer is global."""
    return tuple("global" if (layer + 1) % pattern == 0 else "local" for layer in range(layers))


def tiny_config(**changes: Any) -> ModelConfig:
    """A Gemma 3 of 7 layers, hidden size 64, and 640 pieces; any field can be changed.

    `layers` sets the usual pattern of layer types, and scales follow from the widths unless they are given.
    """
    layers = changes.pop("layers", 7)
    hidden = changes.get("hidden_size", 64)
    head_dim = changes.get("head_dim", 32)
    config = ModelConfig(
        family="gemma3",
        vocab_size=640,
        hidden_size=hidden,
        intermediate_size=96,
        layer_types=layer_types(layers),
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        context_length=1024,
        sliding_window=16,
        rope_theta=1e6,
        rope_local_theta=1e4,
        rms_norm_eps=float(np.float32(1e-6)),
        attention_scale=head_dim**-0.5,
        embedding_scale=hidden**0.5,
        tie_word_embeddings=True,
        bos_id=2,
        stop_ids=(1,),
        pad_id=0,
    )
    return replace(config, **changes)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of every tensor."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    result: dict[str, tuple[int, ...]] = {
        "token_embd": (config.vocab_size, hidden),
        "output_norm": (hidden,),
    }
    if not config.tie_word_embeddings:
        result["output"] = (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        block: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "attn_q": (config.query_width, hidden),
            "attn_k": (config.key_value_width, hidden),
            "attn_v": (config.key_value_width, hidden),
            "attn_q_norm": (config.head_dim,),
            "attn_k_norm": (config.head_dim,),
            "attn_output": (hidden, config.query_width),
            "post_attention_norm": (hidden,),
            "ffn_norm": (hidden,),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
            "post_ffw_norm": (hidden,),
        }
        result |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return result


def tiny_weights(config: ModelConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random float32 weights of a size that keeps activations near one; norms around one."""
    weights = {}
    for name, shape in shapes(config).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        weights[name] = 1 + 0.2 * values if len(shape) == 1 else values * np.float32(shape[-1] ** -0.5)
    return weights


def random_blocks(kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Random valid rows of a quantised kind, uint8 [rows, row_bytes]: any codes, scales of about 0.01."""
    block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = rng.integers(0, 256, (rows, columns // block, nbytes), dtype=np.uint8)
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,))
    for at in halves:
        scale = rng.uniform(0.002, 0.02, data.shape[:2]) / (32 if kind.endswith("_K") else 1)
        data[..., at : at + 2] = scale.astype("<f2")[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def stored(values: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A matrix as `kind` stores it, uint8 [rows, row_bytes]; random blocks where gguf cannot quantise."""
    if kind in ("Q4_K", "Q5_K", "Q6_K"):
        return random_blocks(kind, *values.shape, rng)
    return gguf.quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8).reshape(len(values), -1)


def write_tiny_gguf(
    path: str | Path,
    config: ModelConfig,
    rng: np.random.Generator,
    kinds: str | Mapping[str, str] = "F32",
    *,
    metadata: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
) -> dict[str, np.ndarray]:
    """Write a GGUF file; returns its dequantised weights under canonical names.

    `kinds` is one kind for all matrices, or a mapping from the last part of a name (`token_embd`, `ffn_down`;
    "*" for the rest) to a kind. A matrix whose columns do not fill the kind's blocks is stored as F32.
    `metadata` adds to or replaces the keys written (None removes one).
    """
    table = {"*": kinds} if isinstance(kinds, str) else {"*": "F32", **kinds}
    writer = gguf.GGUFWriter(path, config.family)
    keys = gguf_metadata(config) | ({"tokenizer.chat_template": chat_template} if chat_template else {})
    keys |= dict(metadata or {})
    for key, value in keys.items():
        if value is not None and key != "general.architecture":
            _add_key(writer, key, value)
    result = {}
    for name, values in tiny_weights(config, rng).items():
        if values.ndim == 1:
            writer.add_tensor(f"{name}.weight", values)
            result[name] = values
            continue
        kind = table.get(name.split(".")[-1], table["*"])
        if values.shape[1] % gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]:
            kind = "F32"
        data = stored(values, kind, rng)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[kind])
        result[name] = gguf.quants.dequantize(data, GGMLQuantizationType[kind]).reshape(values.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return result


def gguf_metadata(config: ModelConfig) -> dict[str, Any]:
    """The keys a converter writes for this configuration, vocabulary included."""
    pieces, scores, types = tiny_vocabulary(config.vocab_size)
    return {
        "general.architecture": config.family,
        "general.license": "gemma",
        "gemma3.context_length": config.context_length,
        "gemma3.embedding_length": config.hidden_size,
        "gemma3.block_count": config.num_layers,
        "gemma3.feed_forward_length": config.intermediate_size,
        "gemma3.attention.head_count": config.num_attention_heads,
        "gemma3.attention.head_count_kv": config.num_key_value_heads,
        "gemma3.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "gemma3.attention.key_length": config.head_dim,
        "gemma3.attention.value_length": config.head_dim,
        "gemma3.attention.sliding_window": config.sliding_window,
        "gemma3.rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(pieces),
        "tokenizer.ggml.scores": list(scores),
        "tokenizer.ggml.token_type": list(types),
        "tokenizer.ggml.bos_token_id": config.bos_id,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": config.pad_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def write_tiny_hf(
    folder: str | Path,
    config: ModelConfig,
    rng: np.random.Generator,
    *,
    dtype: str = "BF16",
    shards: int = 1,
    old_style: bool = True,
    chat_template: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write a Hugging Face folder; returns its weights as float32 under canonical names.

    `dtype` is F32, F16 or BF16. `old_style` configs carry `sliding_window_pattern` and `rope_theta`, new ones
    `layer_types` and `rope_parameters`. `changes` adds to or replaces keys of config.json (... removes one).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = hf_config(config, old_style) | dict(changes or {})
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not Ellipsis}))
    generation = {
        "bos_token_id": 2,
        "eos_token_id": [1, 106] if chat_template else 1,
        "top_k": 64,
        "top_p": 0.95,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if chat_template:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat_template}))
    if config.vocab_size in REAL_VOCABULARIES:
        (folder / "tokenizer.model").write_bytes(tiny_tokenizer(config.vocab_size))
    result, tensors = {}, {}
    for name, weight in tiny_weights(config, rng).items():
        kind = GGMLQuantizationType[dtype]
        data = gguf.quants.quantize(weight - 1 if weight.ndim == 1 else weight, kind)
        read = gguf.quants.dequantize(data, kind).reshape(weight.shape)
        result[name] = read + np.float32(1) if weight.ndim == 1 else read
        tensors[hf_name(name)] = (dtype, weight.shape, data.tobytes())
    _write_shards(folder, tensors, shards)
    return result


def hf_name(name: str) -> str:
    """The name a Hugging Face checkpoint gives a canonical tensor."""
    block, _, part = name.rpartition(".")
    layer = f"model.layers.{block.split('.')[1]}." if block else ""
    return f"{layer}{HF_NAMES[part]}.weight"


def hf_config(config: ModelConfig, old_style: bool) -> dict[str, Any]:
    """config.json of this configuration, in the style of transformers 4 or 5."""
    values: dict[str, Any] = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "bos_token_id": config.bos_id,
        "eos_token_id": 1,
        "pad_token_id": config.pad_id,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "rms_norm_eps": config.rms_norm_eps,
        "sliding_window": config.sliding_window,
        "vocab_size": config.vocab_size,
        "use_cache": True,
    }
    if not config.tie_word_embeddings:
        values["tie_word_embeddings"] = False
    if old_style:
        pattern = next((i + 1 for i, kind in enumerate(config.layer_types) if kind == "global"), 6)
        return values | {
            "rope_local_base_freq": config.rope_local_theta,
            "rope_scaling": None,
            "rope_theta": config.rope_theta,
            "sliding_window_pattern": pattern,
            "torch_dtype": "bfloat16",
        }
    names = {"local": "sliding_attention", "global": "full_attention"}
    return values | {
        "_sliding_window_pattern": 6,
        "dtype": "bfloat16",
        "layer_types": [names[kind] for kind in config.layer_types],
        "rope_parameters": {
            "full_attention": {"rope_theta": config.rope_theta, "rope_type": "default"},
            "sliding_attention": {"rope_theta": config.rope_local_theta, "rope_type": "default"},
        },
        "use_bidirectional_attention": False,
    }


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file of (dtype, shape, data); by hand, since NumPy has no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def _write_shards(
    folder: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], shards: int
) -> None:
    names = list(tensors)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for index, file in enumerate(["model.safetensors"] if shards == 1 else files):
        (folder / file).write_bytes(safetensors_bytes({name: tensors[name] for name in names[index::shards]}))
    if shards > 1:
        weight_map = {name: files[i % shards] for i, name in enumerate(names)}
        size = sum(len(data) for _, _, data in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
