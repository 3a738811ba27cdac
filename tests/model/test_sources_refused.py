"""What a model's files may not say: each case is an error that names the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import ModelFileError
from gemlet.model.sources import open_source
from tests.synthetic import hf_config, safetensors_bytes, tiny_config, write_tiny_gguf, write_tiny_hf

CONFIG = tiny_config(layers=2, vocab_size=560)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def refused(path: Path, field: str, problem: str = "") -> None:
    with pytest.raises(ModelFileError) as caught:
        open_source(path)
    assert field in caught.value.field, caught.value
    assert problem in caught.value.problem, caught.value


HF_CHANGES = [
    ({"surprise": 1}, "surprise", "unknown"),
    ({"quantization_config": {"bits": 4}}, "quantization_config", "unknown"),
    ({"model_type": "mamba"}, "model_type", "supported are gemma3_text"),
    ({"model_type": "gemma3"}, "model_type", "supported are gemma3_text"),
    ({"architectures": ["Gemma3ForSequenceClassification"]}, "architectures", ""),
    ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "rope_scaling", ""),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping", ""),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping", ""),
    ({"attention_bias": True}, "attention_bias", ""),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention", ""),
    ({"hidden_activation": "silu"}, "hidden_activation", ""),
    ({"hidden_size": "64"}, "hidden_size", "whole number"),
    ({"hidden_size": 64.0}, "hidden_size", "whole number"),
    ({"hidden_size": True}, "hidden_size", "whole number"),
    ({"hidden_size": 0}, "hidden_size", "whole number"),
    ({"num_hidden_layers": 1 << 20}, "num_hidden_layers", "whole number"),
    ({"num_attention_heads": 3, "num_key_value_heads": 2}, "num_attention_heads", "multiple"),
    ({"head_dim": 31}, "head_dim", "even"),
    ({"rms_norm_eps": 0}, "rms_norm_eps", "number"),
    ({"rope_theta": "1e6"}, "rope_theta", "number"),
    ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar", "number"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "true or false"),
    ({"eos_token_id": "1"}, "eos_token_id", "token id"),
    ({"eos_token_id": [1, 5000]}, "stop_ids", "below"),
    ({"bos_token_id": 5000}, "bos_id", "below"),
    ({"layer_types": ["sliding_attention"]}, "layer_types", "2 names"),
    ({"layer_types": ["sliding_attention", "chunked"]}, "layer_types", "not one of"),
    ({"sliding_window_pattern": 0}, "sliding_window_pattern", "whole number"),
    (
        {"rope_parameters": {"full_attention": {"rope_theta": 5e5, "rope_type": "default"}}},
        "rope_parameters",
        "",
    ),
    ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type", "not supported"),
    ({"rope_parameters": {"full_attention": {"factor": 8.0}}}, "factor", "unknown"),
    ({"rope_parameters": {"other": {}}}, "rope_parameters", "may hold only"),
    ({"rope_parameters": {"full_attention": [1]}}, "rope_parameters", "mapping"),
    ({"rope_parameters": [1]}, "rope_parameters", "may hold only"),
]


@pytest.mark.parametrize(("changes", "field", "problem"), HF_CHANGES)
def test_config_json(tmp_path: Path, changes: dict[str, Any], field: str, problem: str) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), changes=changes)
    refused(tmp_path / "m", field, problem)


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "sliding_window",
        "max_position_embeddings",
    ],
)
def test_a_missing_key_that_a_default_would_fill_with_another_model(tmp_path: Path, key: str) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), changes={key: ...})
    refused(tmp_path / "m", key, "is missing")


def test_missing_keys_with_the_familys_own_value_are_fine(tmp_path: Path) -> None:
    config = tiny_config(layers=7, vocab_size=560, head_dim=256, rms_norm_eps=1e-6)
    keys = (
        "head_dim rms_norm_eps rope_theta rope_local_base_freq query_pre_attn_scalar sliding_window_pattern"
    )
    absent = {
        key: ... for key in (keys + " hidden_activation bos_token_id pad_token_id eos_token_id").split()
    }
    assert absent.keys() <= hf_config(config, old_style=True).keys()
    write_tiny_hf(tmp_path / "m", config, rng(), changes=absent)
    assert open_source(tmp_path / "m").config == config


GGUF_CHANGES = [
    ({"gemma3.surprise": 1}, "gemma3.surprise", "unknown"),
    ({"gemma3.block_count": None}, "gemma3.block_count", "is missing"),
    ({"gemma3.attention.sliding_window": None}, "gemma3.attention.sliding_window", "is missing"),
    ({"gemma3.rope.freq_base": None}, "gemma3.rope.freq_base", "is missing"),
    ({"gemma3.block_count": 1 << 31}, "gemma3.block_count", "whole number"),
    ({"gemma3.block_count": 2.0}, "gemma3.block_count", "whole number"),
    ({"gemma3.rope.freq_base": float("nan")}, "gemma3.rope.freq_base", "number"),
    ({"gemma3.rope.freq_base": "1e6"}, "gemma3.rope.freq_base", "number"),
    ({"gemma3.rope.scaling.type": "yarn"}, "gemma3.rope.scaling.type", "not supported"),
    ({"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}, "rope.scaling.factor", ""),
    ({"gemma3.attention.value_length": 64}, "gemma3.attention.value_length", "not supported"),
    ({"gemma3.attention.sliding_window_pattern": [True]}, "sliding_window_pattern", "truth value"),
    ({"gemma3.final_logit_softcapping": 30.0}, "final_logit_softcapping", "not supported"),
    ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model", "not supported"),
    ({"tokenizer.ggml.tokens": ["a", "b"]}, "tokenizer.ggml.scores", "each piece"),
    ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens", "list of pieces"),
    ({"tokenizer.ggml.scores": [float("nan")] * 560}, "tokenizer.ggml.scores", "NaN"),
    ({"tokenizer.ggml.token_type": [9] * 560}, "tokenizer.ggml.token_type", "0 to 6"),
    ({"tokenizer.ggml.token_type": [0.5] * 560}, "tokenizer.ggml.token_type", "each piece"),
    ({"tokenizer.ggml.bos_token_id": 5000}, "bos_id", "below"),
    ({"tokenizer.ggml.eos_token_id": 5000}, "stop_ids", "below"),
    ({"tokenizer.ggml.add_space_prefix": "no"}, "tokenizer.ggml.add_space_prefix", "true or false"),
    ({"general.sampling.top_p": 1.5}, "general.sampling.top_p", "number"),
    ({"split.count": 3}, "split.count", "join"),
]


@pytest.mark.parametrize(("changes", "field", "problem"), GGUF_CHANGES)
def test_gguf_metadata(tmp_path: Path, changes: dict[str, Any], field: str, problem: str) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), metadata=changes)
    refused(tmp_path / "m.gguf", field, problem)


def test_another_architecture(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "m.gguf", "general.architecture", "supported are gemma3")


def test_metadata_too_long_to_keep(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), metadata={"general.description": "x" * (5 << 20)})
    refused(tmp_path / "m.gguf", "general.description", "characters of metadata")


# --- Tensors


def checkpoint(folder: Path, change: Any) -> Path:
    """A folder whose tensors, as (dtype, shape, data), `change` has edited."""
    write_tiny_hf(folder / "m", CONFIG, rng(), dtype="F32")
    data = (folder / "m" / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    tensors = {
        name: (item["dtype"], item["shape"], data[8 + length :][slice(*item["data_offsets"])])
        for name, item in header.items()
    }
    change(tensors)
    (folder / "m" / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder / "m"


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


def test_a_missing_tensor(tmp_path: Path) -> None:
    refused(checkpoint(tmp_path, lambda tensors: tensors.pop(QUERY)), "blk.1.attn_q", "is missing")


def test_an_unexpected_tensor(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.self_attn.q_proj.bias"] = ("F32", [4], b"\0" * 16)

    refused(checkpoint(tmp_path, change), "self_attn.q_proj.bias", "not part of")


def test_a_tensor_of_a_layer_too_many(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["model.layers.2.input_layernorm.weight"] = ("F32", [64], b"\0" * 256)

    refused(checkpoint(tmp_path, change), "model.layers.2.input_layernorm", "not part of")


def test_a_tensor_of_a_wrong_shape(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        dtype, shape, data = tensors[QUERY]
        tensors[QUERY] = dtype, shape[::-1] if shape[0] != shape[1] else [shape[0] * 2, shape[1] // 2], data

    refused(checkpoint(tmp_path, change), QUERY, "has the shape")


def test_a_norm_of_two_dimensions(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[NORM] = "F32", [1, 64], tensors[NORM][2]

    refused(checkpoint(tmp_path, change), NORM, "has the shape")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), shards=2)
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    refused(tmp_path / "m", "tensor", "is also in model-00001-of-00002.safetensors")


def test_a_missing_shard(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), shards=2)
    (tmp_path / "m" / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path / "m", "file", "No such file")


def test_an_index_that_is_none(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), shards=2)
    index = tmp_path / "m" / "model.safetensors.index.json"
    for content in ({}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 5}}):
        index.write_text(json.dumps(content))
        refused(tmp_path / "m", "weight_map")


def test_a_gguf_file_of_another_shape(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), metadata={"gemma3.feed_forward_length": 128})
    refused(tmp_path / "m.gguf", "blk.0.ffn_gate", "has the shape")
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), metadata={"gemma3.block_count": 3})
    refused(tmp_path / "m.gguf", "blk.2.", "is missing")
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), metadata={"gemma3.block_count": 1})
    refused(tmp_path / "m.gguf", "blk.1.", "not part of")


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json: is missing"):
        open_source(tmp_path)
    (tmp_path / "one.gguf").touch()
    with pytest.raises(ModelFileError) as caught:
        open_source(tmp_path)
    assert "one.gguf" in (caught.value.hint or "")
