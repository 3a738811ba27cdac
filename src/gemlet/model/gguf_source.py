"""A GGUF file as a model: its metadata understood."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.errors import ModelFileError
from gemlet.formats.gguf import Strings, read_gguf
from gemlet.formats.tensors import Tensor
from gemlet.model import llama_config
from gemlet.model.config import MAX_LAYERS, ConfigValueError, LayerType, ModelConfig
from gemlet.model.defects import correct_stop_ids, correct_types, correct_values
from gemlet.model.description import Description, SourceFacts
from gemlet.model.families import FAMILIES, Family
from gemlet.model.keys import Keys
from gemlet.types import Sampling, TokenizerSource, Vocabulary

_TOKENS, _SCORES, _TYPES, _MERGES = (
    f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges")
)
_MOST_KEPT = 1 << 22
"""Characters of metadata that may be kept beside packed weights, the vocabulary apart."""


def read_file(path: Path) -> tuple[Description, dict[str, Tensor], float]:
    """Description, tensors under canonical names, and the offset of norm weights (none in GGUF files)."""
    file = read_gguf(path)
    family = _family(str(path), file.metadata)
    vocabulary = _vocabulary(str(path), file.metadata, family)
    tensors = {}
    for name, tensor in file.tensors.items():
        if not name.endswith((".weight", ".bias")):
            raise ModelFileError(path, f"tensor {name!r}", f"is not part of a {family.name}")
        tensors[name.removesuffix(".weight")] = tensor
    divisors: list[float] = []
    if family.configuration == "llama":
        divisors = llama_config.take_rope_divisors(path, tensors)
    if family.gguf_neighbouring_rope:
        keys = Keys(str(path), file.metadata, f"{family.name}.")
        llama_config.pair_halves(tensors, keys.integer("attention.head_count"), "attn_q")
        llama_config.pair_halves(tensors, keys.integer("attention.head_count_kv"), "attn_k")
    values = {
        "format": "gguf",
        "metadata": _plain_metadata(str(path), file.metadata),
        "tied": "output" not in tensors,
        "vocabulary_sha256": _digest(*_given(vocabulary)),
    }
    if divisors:
        values["rope_divisors"] = divisors
    return Description(values, vocabulary), tensors, 0.0


def describe(path: Path, values: Mapping[str, Any], vocabulary: Vocabulary) -> SourceFacts:
    """What the metadata states, with known defects put right."""
    where, metadata = str(path), values["metadata"]
    family = _family(where, metadata)
    keys = Keys(where, metadata)
    chat_template = keys.text("tokenizer.chat_template") if "tokenizer.chat_template" in keys else None
    if family.configuration == "llama":
        config_values = llama_config.gguf_values(keys, where, metadata, family, len(vocabulary))
        config_values["rope_divisors"] = tuple(values.get("rope_divisors", ()))
    else:
        config_values = _config_values(where, metadata, family, len(vocabulary))
    config_values["tie_word_embeddings"] = values["tied"]
    corrections = correct_values(family, config_values)
    stated = keys.ids("tokenizer.ggml.eos_token_id") + keys.ids("tokenizer.ggml.eot_token_id")
    config_values["stop_ids"], lines = correct_stop_ids(family, stated, chat_template is not None)
    corrections += lines
    types, lines = correct_types(family, vocabulary)
    corrections += lines
    vocabulary = replace(vocabulary, types=types)
    prefix = "tokenizer.ggml.add_space_prefix"
    if prefix not in keys and family.tokenizer == "sentencepiece":
        corrections.append(
            f"add_space_prefix is missing and was set to {str(family.add_space_prefix).lower()}"
        )
    add_space_prefix = keys.flag(prefix, family.add_space_prefix)
    try:
        config = ModelConfig(**config_values)
    except ConfigValueError as error:
        raise ModelFileError(path, error.field, error.problem) from error
    tokenizer = TokenizerSource(
        kind="gguf",
        path=where,
        sha256=_digest(values["vocabulary_sha256"].encode(), bytes([add_space_prefix]), types),
        bos_id=config.bos_id,
        unknown_id=_unknown_id(keys, family, config.vocab_size),
        pad_id=config.pad_id,
        add_space_prefix=add_space_prefix,
        vocabulary=vocabulary,
        algorithm=family.tokenizer,
        pre=keys.text("tokenizer.ggml.pre", "") if family.tokenizer == "byte-bpe" else None,
        add_bos=keys.flag("tokenizer.ggml.add_bos_token") if "tokenizer.ggml.add_bos_token" in keys else None,
    )
    licence = keys.text("general.license") if "general.license" in keys else None
    sampling = _sampling(keys, family)
    return SourceFacts(where, "gguf", config, tokenizer, chat_template, sampling, tuple(corrections), licence)


def _unknown_id(keys: Keys, family: Family, vocab_size: int) -> int | None:
    if family.tokenizer == "byte-bpe":
        return None  # every byte has a piece
    return keys.integer("tokenizer.ggml.unknown_token_id", 3, least=0, most=vocab_size - 1)


def _family(path: str, metadata: Mapping[str, Any]) -> Family:
    architecture = Keys(path, metadata).text("general.architecture")
    if architecture not in FAMILIES:
        problem = f"is {architecture[:40]!r}; supported are {', '.join(FAMILIES)}"
        raise ModelFileError(path, "general.architecture", problem)
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelFileError(path, "split.count", "the file is one part of several; join them first")
    return FAMILIES[architecture]


def _config_values(path: str, metadata: Mapping[str, Any], family: Family, vocab_size: int) -> dict[str, Any]:
    keys = Keys(path, metadata, f"{family.name}.")
    layers = keys.integer("block_count", most=MAX_LAYERS)
    hidden = keys.integer("embedding_length")
    head_dim = keys.integer("attention.key_length")
    keys.expect("attention.value_length", head_dim)
    keys.expect("rope.dimension_count", head_dim)
    keys.expect("vocab_size", vocab_size)
    keys.expect("rope.scaling.type", "none", "linear")
    keys.expect("rope.scaling.factor", 1.0)
    keys.expect("attn_logit_softcapping", 0.0)
    keys.expect("final_logit_softcapping", 0.0)
    keys.expect("attention.causal", True)
    tokenizer = Keys(path, metadata, "tokenizer.ggml.")
    tokenizer.expect("model", "llama")
    tokenizer.expect("remove_extra_whitespaces", False)
    tokenizer.expect("add_bos_token", True, False)  # one <bos> is always added, by the text layer
    result = {
        "family": family.name,
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": keys.integer("feed_forward_length"),
        "layer_types": _layer_types(keys, layers, family),
        "num_attention_heads": keys.integer("attention.head_count"),
        "num_key_value_heads": keys.integer("attention.head_count_kv"),
        "head_dim": head_dim,
        "context_length": keys.integer("context_length"),
        "sliding_window": keys.integer("attention.sliding_window"),
        "rope_theta": keys.number("rope.freq_base"),
        "rope_local_theta": keys.number("rope.freq_base_swa", family.rope_local_theta),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "attention_scale": head_dim**-0.5,
        "embedding_scale": hidden**0.5,
        "bos_id": tokenizer.integer("bos_token_id", family.bos_id, least=0),
        "pad_id": tokenizer.integer("padding_token_id", family.pad_id, least=0),
    }
    if unknown := keys.unknown():
        raise ModelFileError(path, unknown[0], f"is unknown; it may change what {family.name} computes")
    return result


def _layer_types(keys: Keys, layers: int, family: Family) -> tuple[LayerType, ...]:
    pattern = keys.get("attention.sliding_window_pattern", family.layer_pattern)
    if isinstance(pattern, list):
        if len(pattern) != layers or not all(isinstance(local, bool) for local in pattern):
            keys.fail("attention.sliding_window_pattern", "must have one truth value for each layer")
        return tuple("local" if local else "global" for local in pattern)
    pattern = keys.integer("attention.sliding_window_pattern", family.layer_pattern)
    return tuple("local" if (layer + 1) % pattern else "global" for layer in range(layers))


def _sampling(keys: Keys, family: Family) -> Sampling:
    """The family's defaults, replaced by what the file recommends."""
    known = {
        "temp": ("temperature", 100.0),
        "top_p": ("top_p", 1.0),
        "min_p": ("min_p", 1.0),
        "penalty_repeat": ("repetition_penalty", 100.0),
    }
    stated: dict[str, Any] = {
        name: keys.number(f"general.sampling.{key}", least=0, most=most)
        for key, (name, most) in known.items()
        if f"general.sampling.{key}" in keys
    }
    if "general.sampling.top_k" in keys:
        stated["top_k"] = keys.integer("general.sampling.top_k", least=0)
    return replace(family.sampling, **stated)


def _vocabulary(path: str, metadata: Mapping[str, Any], family: Family) -> Vocabulary:
    tokens, scores, types, merges = (metadata.get(key) for key in (_TOKENS, _SCORES, _TYPES, _MERGES))
    if not isinstance(tokens, Strings) or not len(tokens):
        raise ModelFileError(path, _TOKENS, "must be a list of pieces")
    if family.tokenizer == "byte-bpe":  # which has merges instead of scores
        Keys(path, metadata).expect("tokenizer.ggml.model", "gpt2")
        if not isinstance(merges, Strings):
            raise ModelFileError(path, _MERGES, "must be a list of merges")
        scores = np.zeros(len(tokens), np.float32)
    else:
        merges = None
    for key, array, kind in ((_SCORES, scores, "f"), (_TYPES, types, "i")):
        if not isinstance(array, np.ndarray) or array.dtype.kind != kind or len(array) != len(tokens):
            raise ModelFileError(path, key, "must have one number for each piece")
    assert scores is not None and types is not None
    if not np.isfinite(scores).all():
        raise ModelFileError(path, _SCORES, "holds NaN or infinity")
    if types.min() < 0 or types.max() > 6:
        raise ModelFileError(path, _TYPES, "holds a type that is not from 0 to 6")
    pieces = Vocabulary(tokens.text, tokens.ends, scores.astype(np.float32), types.astype(np.int32))
    return pieces if merges is None else replace(pieces, merges=merges.text, merge_ends=merges.ends)


def _given(vocabulary: Vocabulary) -> list[np.ndarray]:
    """The arrays that identify a vocabulary, its types apart."""
    arrays = (vocabulary.text, vocabulary.ends, vocabulary.scores, vocabulary.merges, vocabulary.merge_ends)
    return [array for array in arrays if array is not None]


def _plain_metadata(path: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What can be kept as JSON: single values and short lists."""
    kept: dict[str, Any] = {}
    size = 0
    for key, value in metadata.items():
        if isinstance(value, np.ndarray):
            value = value.tolist() if len(value) <= MAX_LAYERS else None
        elif isinstance(value, Strings | list):
            value = None
        if value is not None:
            kept[key] = value
            size += len(key) + len(str(value))
            if size > _MOST_KEPT:
                raise ModelFileError(path, key, f"is beyond {_MOST_KEPT} characters of metadata")
    return kept


def _digest(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data.cast("B"))
    return digest.hexdigest()
