"""The configuration of Llama and of the models that are built like it, from either kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import ModelFileError
from gemlet.formats.dequantize import dequantize
from gemlet.formats.tensors import Tensor
from gemlet.model.config import MAX_LAYERS
from gemlet.model.families import Family
from gemlet.model.keys import Keys
from gemlet.ops.operations import frequencies

ROPE_FREQS = "rope_freqs"
"""The tensor of a GGUF file that is no weight: what frequencies are divided by."""

_MOST_DIVISORS = 1 << 12


def hf_values(keys: Keys, family: Family) -> dict[str, Any]:
    """What config.json states, as the fields of a ModelConfig."""
    hidden = keys.integer("hidden_size")
    heads = keys.integer("num_attention_heads")
    layers = keys.integer("num_hidden_layers", most=MAX_LAYERS)
    keys.expect("hidden_act", family.activation)
    keys.expect("mlp_bias", False)
    keys.expect("rope_interleaved", False)
    keys.expect("use_mrope", False)
    if family.name != "qwen2":  # whose biases are no choice
        keys.expect("attention_bias", False)
    keys.expect("use_sliding_window", False)
    for key in ("sliding_window", "max_window_layers", "pretraining_tp", "is_llama_config"):
        keys.get(key, None)  # say nothing where no window is used
    keys.get("transformers.js_config", None)
    _expect_full_attention(keys, layers)
    theta = keys.number("rope_theta", family.rope_theta)
    head_dim = _head_dim(keys, "head_dim", hidden, heads)
    theta, divisors = _rope(keys, theta, head_dim)
    stop_ids = keys.ids("eos_token_id")
    first_stop = stop_ids[0] if stop_ids else 0
    values = _values(family, layers, hidden, head_dim, keys.integer("max_position_embeddings"))
    return values | {
        "vocab_size": keys.integer("vocab_size"),
        "intermediate_size": keys.integer("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads
        if keys.get("num_key_value_heads", None) is None
        else keys.integer("num_key_value_heads"),
        "rope_theta": theta,
        "rope_divisors": divisors,
        "rms_norm_eps": keys.number("rms_norm_eps", family.rms_norm_eps),
        "tie_word_embeddings": keys.flag("tie_word_embeddings", family.tied_by_default),
        "bos_id": _id(keys, "bos_token_id", first_stop),
        "pad_id": _id(keys, "pad_token_id", first_stop),
        "stop_ids": stop_ids,
    }


def gguf_values(
    every: Keys, path: str, metadata: Mapping[str, Any], family: Family, vocab_size: int
) -> dict[str, Any]:
    """What a GGUF file's metadata states, as the fields of a ModelConfig."""
    keys = Keys(path, metadata, f"{family.name}.")
    hidden = keys.integer("embedding_length")
    heads = keys.integer("attention.head_count")
    head_dim = _head_dim(keys, "attention.key_length", hidden, heads)
    keys.expect("attention.value_length", head_dim)
    keys.expect("rope.dimension_count", head_dim)
    keys.expect("vocab_size", vocab_size)
    keys.expect("rope.scaling.type", "none", "linear")
    keys.expect("rope.scaling.factor", 1.0)
    keys.expect("attention.causal", True)
    for key in ("expert_count", "expert_used_count"):
        keys.expect(key, 0)
    tokenizer = Keys(path, metadata, "tokenizer.ggml.")
    tokenizer.expect("model", "gpt2")
    tokenizer.get("model")
    stop_ids = every.ids("tokenizer.ggml.eos_token_id")
    first_stop = stop_ids[0] if stop_ids else 0
    context = keys.integer("context_length")
    layers = keys.integer("block_count", most=MAX_LAYERS)
    values = _values(family, layers, hidden, head_dim, context) | {
        "vocab_size": vocab_size,
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "rope_theta": keys.number("rope.freq_base", family.rope_theta),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "bos_id": tokenizer.integer("bos_token_id", first_stop, least=0),
        "pad_id": tokenizer.integer("padding_token_id", first_stop, least=0),
    }
    if unknown := keys.unknown():
        raise ModelFileError(path, unknown[0], f"is unknown; it may change what {family.name} computes")
    return values


def take_rope_divisors(path: Path, tensors: dict[str, Tensor]) -> list[float]:
    """The divisors of the frequencies, removed from the tensors: Llama 3 files hold them as one."""
    tensor = tensors.pop(ROPE_FREQS, None)
    if tensor is None:
        return []
    if tensor.kind != "F32" or len(tensor.shape) != 1 or tensor.columns > _MOST_DIVISORS:
        raise ModelFileError(
            path, f"tensor {tensor.name!r}", f"must be at most {_MOST_DIVISORS} float32 numbers"
        )
    return [float(value) for value in dequantize(tensor)]


def pair_halves(tensors: dict[str, Tensor], heads: int, name: str) -> None:
    """Order the rows of every layer's matrix `name` as a rotation wants them that pairs halves of a head.

    The file has row 2i + j of a head where row j * head_dim/2 + i belongs.
    """
    for full, tensor in tensors.items():
        if full.split(".")[-1] != name or len(tensor.shape) != 2 or tensor.shape[0] % (2 * heads):
            continue  # a wrong shape is found when shapes are checked
        order = np.arange(tensor.shape[0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
        tensors[full] = replace(tensor, data=tensor.rows()[order].reshape(-1))


def _values(family: Family, layers: int, hidden: int, head_dim: int, context: int) -> dict[str, Any]:
    return {
        "family": family.name,
        "hidden_size": hidden,
        "layer_types": ("global",) * layers,
        "head_dim": head_dim,
        "context_length": context,
        "sliding_window": context,  # of no layer
        "rope_local_theta": family.rope_local_theta,
        "attention_scale": head_dim**-0.5,
        "embedding_scale": 1.0,
    }


def _head_dim(keys: Keys, key: str, hidden: int, heads: int) -> int:
    if keys.get(key, None) is not None:
        return keys.integer(key)
    if hidden % heads:
        keys.fail(key, f"is missing, and {heads} heads do not divide the hidden size {hidden}")
    return hidden // heads


def _id(keys: Keys, key: str, default: int) -> int:
    return default if keys.get(key, None) is None else keys.integer(key, least=0)


def _expect_full_attention(keys: Keys, layers: int) -> None:
    types = keys.get("layer_types", None)
    if types not in (None, ["full_attention"] * layers):
        keys.fail("layer_types", "has a layer that is not full_attention, which is not supported here")


def _rope(keys: Keys, theta: float, head_dim: int) -> tuple[float, tuple[float, ...]]:
    """Base and divisors, from either style of configuration."""
    stated = [key for key in ("rope_scaling", "rope_parameters") if keys.get(key, None) is not None]
    if len(stated) > 1 and keys.get(stated[0]) != keys.get(stated[1]):
        keys.fail("rope_parameters", "contradicts rope_scaling")
    if not stated:
        return theta, ()
    value = keys.get(stated[0])
    if not isinstance(value, dict):
        keys.fail(stated[0], "must be a mapping")
    part = Keys(keys.path, {f"{stated[0]}.{key}": item for key, item in value.items()}, f"{stated[0]}.")
    own = part.number("rope_theta", theta)
    if "rope_theta" in keys and own != theta:
        keys.fail(stated[0], "contradicts rope_theta")
    kind = part.text("rope_type", part.get("type", "default"))
    if kind == "llama3":
        divisors = _stated_divisors(part, head_dim, own)
    elif kind == "linear":
        divisors = (part.number("factor"),) * (head_dim // 2)
    elif kind == "default":
        divisors = ()
    else:
        part.fail("rope_type", f"is {kind[:40]!r}; supported are default, linear and llama3")
    if unknown := part.unknown():
        raise ModelFileError(keys.path, unknown[0], "is unknown; it may change what the model computes")
    return own, divisors


def _stated_divisors(part: Keys, head_dim: int, theta: float) -> tuple[float, ...]:
    factor, low, high = (part.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        part.fail("high_freq_factor", "must be larger than low_freq_factor")
    trained = part.integer("original_max_position_embeddings")
    return llama3_divisors(head_dim, theta, factor, low, high, trained)


def llama3_divisors(
    head_dim: int, theta: float, factor: float, low: float, high: float, trained: int
) -> tuple[float, ...]:
    """Long waves are slowed down by `factor`, short ones left alone, and those between slowed in part.

    trained: the context that the model had before. low, high: how many waves of a length that is slowed down,
    or left alone, fit into it. As transformers computes them, in float32: the divisors give back its
    frequencies to the last bit.
    """
    given = frequencies(head_dim, theta)
    wavelength: NDArray[np.float32] = np.float32(2 * pi) / given
    slowed = given / np.float32(factor)
    share = (np.float32(trained) / wavelength - np.float32(low)) / np.float32(high - low)
    between = (1 - share) * slowed + share * given
    scaled = np.where(
        wavelength > np.float32(trained) / low,
        slowed,
        np.where(wavelength < np.float32(trained) / high, given, between),
    )
    return tuple((given.astype(np.float64) / scaled).tolist())
