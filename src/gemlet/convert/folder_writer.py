"""A transformers folder from an opened model: weights as safetensors, and configurations without gaps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.convert.gguf_writer import Check, Written, refuse_source
from gemlet.convert.llama_folder import llama_hf_config
from gemlet.convert.staging import staged
from gemlet.convert.tensors import (
    OutputTensor,
    Progress,
    Rows,
    counter,
    differences,
    encoded,
    kept,
    total_bytes,
    values_of,
    write_data,
)
from gemlet.convert.tokenizer_files import tokenizer_files
from gemlet.errors import InvalidRequestError, OutputError
from gemlet.formats.encode import FLOAT_KINDS
from gemlet.formats.safetensors import checkpoint_header, read_safetensors
from gemlet.formats.tensors import KINDS
from gemlet.model.families import FAMILIES, file_name
from gemlet.model.folder_source import CONFIG, GENERATION, INDEX, SINGLE
from gemlet.model.sources import Source

MAX_SHARD_BYTES = 5_000_000_000
_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def folder_kind(source: Source) -> str:
    """The kind of a folder unless another is asked for: that of most bytes, BF16 for a quantised source."""
    sizes: dict[str, int] = {}
    for tensor in source.tensors.values():
        if len(tensor.shape) == 2:
            sizes[tensor.kind] = sizes.get(tensor.kind, 0) + len(tensor.data)
    if not all(KINDS[kind].is_float for kind in sizes):
        return "BF16"
    return max(sorted(sizes), key=lambda kind: sizes[kind])


def write_folder(
    path: str | Path,
    source: Source,
    kind: str,
    changed: Mapping[str, Rows] | None = None,
    *,
    others: Mapping[str, bytes] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    check: Check | None = None,
    shard_bytes: int = MAX_SHARD_BYTES,
) -> Written:
    """Write a model as a folder that transformers and vLLM open.

    kind: F32, F16 or BF16, of every tensor. changed: values in place of the source's, by canonical name.
    others: further files by name. The folder appears under its name whole and read again, or not at all.
    Raises OutputError where it cannot be written, ModelFileError for values that the kind cannot hold,
    InvalidRequestError for what such a folder cannot say.
    """
    path = Path(path)
    outputs = folder_tensors(source, kind, changed or {})
    shards = _shards(outputs, shard_bytes)
    files = _descriptions(source, kind) | tokenizer_files(source) | dict(others or {})
    if len(shards) > 1:
        files[INDEX] = _index(shards)
    refuse_source(path, source)
    needed = total_bytes(outputs) + sum(map(len, files.values())) + 512 * len(outputs)
    with staged(path, needed, force=force) as stage:
        stage.mkdir()
        for name, content in files.items():
            (stage / name).write_bytes(content)
        step = counter(total_bytes(outputs), progress)
        for name, tensors in shards.items():
            _write_shard(stage / name, tensors, source.facts.path, step)
        if check is not None:
            check(stage)
        nbytes = sum(file.stat().st_size for file in stage.iterdir())
    kinds = dict.fromkeys(source.tensors, kind)
    return Written(str(path), nbytes, kinds, source.facts.corrections)


def folder_tensors(source: Source, kind: str, changed: Mapping[str, Rows]) -> dict[str, OutputTensor]:
    """Every tensor under its Hugging Face name. What has the kind already and is not changed is copied."""
    if kind not in FLOAT_KINDS:
        raise InvalidRequestError(f"a transformers folder holds {', '.join(FLOAT_KINDS)}, not {kind}")
    config = source.config
    family = FAMILIES[config.family]
    rules = family.tensor_rules(config.num_layers, config.tie_word_embeddings)
    offset = np.float32(source.norm_offset) - np.float32(family.hf_norm_offset)
    outputs = {}
    for name, tensor in source.tensors.items():
        shift = offset if len(tensor.shape) == 1 else np.float32(0)
        if tensor.kind == kind and not shift and name not in changed:
            outputs[file_name(rules[name][0])] = kept(tensor)
            continue
        values = changed.get(name, values_of(tensor))
        outputs[file_name(rules[name][0])] = encoded(kind, tensor.shape, _shifted(values, shift))
    return outputs


def _shifted(values: Rows, shift: np.float32) -> Rows:
    return (lambda start, stop: values(start, stop) + shift) if shift else values


def _shards(tensors: Mapping[str, OutputTensor], most: int) -> dict[str, dict[str, OutputTensor]]:
    """The tensors by file, in order; a file is larger than `most` only for one tensor that is."""
    parts: list[dict[str, OutputTensor]] = [{}]
    for name, tensor in tensors.items():
        if parts[-1] and total_bytes(parts[-1]) + tensor.nbytes > most:
            parts.append({})
        parts[-1][name] = tensor
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    return {f"model-{i + 1:05}-of-{len(parts):05}.safetensors": part for i, part in enumerate(parts)}


def _index(shards: Mapping[str, Mapping[str, OutputTensor]]) -> bytes:
    size = sum(total_bytes(tensors) for tensors in shards.values())
    places = {name: file for file, tensors in shards.items() for name in tensors}
    return _json({"metadata": {"total_size": size}, "weight_map": places})


def _write_shard(
    path: Path, tensors: Mapping[str, OutputTensor], where: str, step: Callable[[int], None]
) -> None:
    layout = {name: (tensor.kind, tensor.shape, tensor.nbytes) for name, tensor in tensors.items()}
    with path.open("wb") as file:
        file.write(checkpoint_header(layout))
        digests = write_data(file, tensors, where, step)
    if different := differences(read_safetensors(path)[0], tensors, digests):
        hint = "the disk or the memory of this machine may be faulty"
        raise OutputError(f"{path}: tensor {different[0]!r} read again is not what was written", hint=hint)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# --- What says how the weights are computed with


def _descriptions(source: Source, kind: str) -> dict[str, bytes]:
    return {CONFIG: _json(hf_config(source, kind)), GENERATION: _json(_generation(source))}


def hf_config(source: Source, kind: str) -> dict[str, Any]:
    """config.json with every key that the computation depends on, in the words of transformers 4 and 5.

    Nothing is left to the defaults of the class, which are those of a larger model.
    """
    config, family = source.config, FAMILIES[source.config.family]
    if family.configuration == "llama":
        return llama_hf_config(config, _TORCH[kind], _stop_ids(source))
    names = {"local": "sliding_attention", "global": "full_attention"}
    globals_at = [i + 1 for i, kind in enumerate(config.layer_types) if kind == "global"]
    return {
        "architectures": [family.hf_architecture],
        "model_type": family.hf_model_type,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "bos_token_id": config.bos_id,
        "dtype": _TORCH[kind],
        "eos_token_id": _stop_ids(source),
        "head_dim": config.head_dim,
        "hidden_activation": family.activation,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": [names[kind] for kind in config.layer_types],
        "max_position_embeddings": config.context_length,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_id,
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "rms_norm_eps": float(f"{config.rms_norm_eps:.7g}"),
        "rope_local_base_freq": config.rope_local_theta,
        "rope_parameters": {
            "full_attention": {"rope_theta": config.rope_theta, "rope_type": "default"},
            "sliding_attention": {"rope_theta": config.rope_local_theta, "rope_type": "default"},
        },
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window,
        "sliding_window_pattern": globals_at[0] if globals_at else config.num_layers + 1,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": _TORCH[kind],
        "use_bidirectional_attention": False,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _stop_ids(source: Source) -> int | list[int]:
    ids = list(source.config.stop_ids)
    return ids[0] if len(ids) == 1 else ids


def _generation(source: Source) -> dict[str, Any]:
    config, sampling = source.config, source.facts.sampling
    values: dict[str, Any] = {
        "bos_token_id": config.bos_id,
        "do_sample": sampling.temperature > 0,
        "eos_token_id": _stop_ids(source),
        "pad_token_id": config.pad_id,
    }
    if sampling.temperature > 0:
        values |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    if sampling.min_p:
        values["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        values["repetition_penalty"] = sampling.repetition_penalty
    return values
