"""config.json of Llama and of the models that are built like it."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np

from gemlet.errors import InvalidRequestError
from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES
from gemlet.model.llama_config import llama3_divisors
from gemlet.ops.operations import frequencies

_LOW, _HIGH = 1.0, 4.0
"""`low_freq_factor` and `high_freq_factor` of every Llama 3; divisors say no more than ratios."""


def llama_hf_config(config: ModelConfig, dtype: str, stop_ids: int | list[int]) -> dict[str, Any]:
    """Every key that the computation depends on, in the words of transformers 4 and 5.

    Raises InvalidRequestError for a rotation that it has no words for.
    """
    family = FAMILIES[config.family]
    rope = rope_parameters(config)
    values = {
        "architectures": [family.hf_architecture],
        "model_type": family.hf_model_type,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_id,
        "dtype": dtype,
        "eos_token_id": stop_ids,
        "head_dim": config.head_dim,
        "hidden_act": family.activation,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_id,
        "rms_norm_eps": float(f"{config.rms_norm_eps:.7g}"),
        "rope_parameters": rope,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if family.name == "llama":
        return values | {"attention_bias": False, "mlp_bias": False}
    if family.name == "qwen3":
        values["attention_bias"] = False
    return values | {"sliding_window": None, "use_sliding_window": False}


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """What frequencies are made from: a GGUF file holds the divisors that come out of it.

    Raises InvalidRequestError where neither `linear` nor `llama3` gives these divisors.
    """
    divisors = np.array(config.rope_divisors, np.float32)
    theta = {"rope_theta": config.rope_theta}
    if not len(divisors):
        return theta | {"rope_type": "default"}
    factor = float(f"{divisors.max():.6g}")
    if divisors.min() == divisors.max():
        return theta | {"rope_type": "linear", "factor": factor}
    # 1/divisor goes from 1 to 1/factor in proportion to how many waves fit into the context.
    between = (divisors > 1.001) & (divisors < factor * 0.999)
    wavelength = 2 * pi / frequencies(config.head_dim, config.rope_theta)[between]
    share = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    trained = (share * (_HIGH - _LOW) + _LOW) * wavelength
    for length in {round(float(trained.mean()))} if len(trained) else ():
        again = llama3_divisors(config.head_dim, config.rope_theta, factor, _LOW, _HIGH, length)
        if np.allclose(again, divisors, rtol=2.0**-20, atol=0):
            return theta | {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": length,
            }
    raise InvalidRequestError(
        "a transformers folder has no words for this model's rotation", hint="--format gguf keeps it"
    )
