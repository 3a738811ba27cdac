"""The metadata of a GGUF file: that of a GGUF source, put right, or built in full from a folder."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.byte_tokenizer import byte_tokenizer_metadata
from gemlet.convert.gguf_values import ARRAY, BOOL, F32, I32, STRING, U32, Metadata, Value
from gemlet.convert.lineage import base_models
from gemlet.formats.gguf import Strings, read_gguf
from gemlet.formats.tensors import KINDS
from gemlet.model.families import FAMILIES, Family
from gemlet.model.sources import Source
from gemlet.text.byte_level import read_byte_pieces
from gemlet.text.pieces import CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, Pieces, checked
from gemlet.text.vocabulary import read_pieces
from gemlet.types import Vocabulary

_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
_NUMBERS = {"uint8": 0, "int8": 1, "uint16": 2, "int16": 3, "uint32": U32, "int32": I32, "float32": F32}
_NUMBERS |= {"bool": BOOL, "uint64": 10, "int64": 11, "float64": 12}
_SCORE_OF_META = -1000.0
"""What converters give to pieces that are never made by merging."""


def metadata_of(source: Source, kinds: Mapping[str, str], changed: bool) -> tuple[Metadata, list[str]]:
    """Every key of the file to write, and one line for each thing that was put right.

    kinds: the storage kind of each tensor as it will be written. changed: whether any weight is another one
    than the source's.
    """
    metadata, lines = _kept(source) if source.facts.format == "gguf" else (_built(source), [])
    if changed or "general.file_type" not in metadata:
        metadata["general.file_type"] = Value(U32, _file_type(kinds))
    if any(not KINDS[kind].is_float for kind in kinds.values()):
        metadata["general.quantization_version"] = Value(U32, 2)
    if changed:
        for key in [key for key in metadata if key.startswith("quantize.imatrix.")]:
            del metadata[key]
    return metadata, lines


def _file_type(kinds: Mapping[str, str]) -> int:
    """The format's number of the kind that most matrices of the layers have; 1024 where it has none."""
    vectors = ("norm", ".bias")
    matrices = [
        kind for name, kind in kinds.items() if name.startswith("blk.") and not name.endswith(vectors)
    ]
    most = max(sorted(set(matrices)), key=matrices.count)
    return _FILE_TYPES.get(most, 1024)


# --- From a GGUF file


def _kept(source: Source) -> tuple[Metadata, list[str]]:
    """The source's own keys, in its order, with its known defects put right."""
    file = read_gguf(source.facts.path)
    metadata: Metadata = {}
    for key, value in file.metadata.items():
        if key == "general.alignment" or key.startswith("split."):
            continue  # of the file, not of the model
        if file.types[key] != ARRAY:
            metadata[key] = Value(file.types[key], value)
        elif len(value):  # an empty list says nothing
            metadata[key] = array(value)
    return metadata, _put_right(source, metadata)


def array(value: Strings | NDArray[Any] | list[Any]) -> Value:
    """A list of strings, of numbers, or of lists."""
    if isinstance(value, Strings):
        return Value(ARRAY, list(value), STRING)
    if isinstance(value, list):
        return Value(ARRAY, [array(item).value for item in value], ARRAY)
    return Value(ARRAY, value.tolist(), _NUMBERS[value.dtype.name])


def _put_right(source: Source, metadata: Metadata) -> list[str]:
    """Write what opening the source corrected, in place. The lines are those that opening it gave."""
    config, tokenizer = source.config, source.facts.tokenizer
    window = f"{config.family}.attention.sliding_window"
    if window in metadata and metadata[window].value != config.sliding_window:
        metadata[window] = Value(U32, config.sliding_window)
    if tokenizer.algorithm == "sentencepiece":
        prefix = "tokenizer.ggml.add_space_prefix"
        metadata.setdefault(prefix, Value(BOOL, bool(tokenizer.add_space_prefix)))
    assert tokenizer.vocabulary is not None
    metadata["tokenizer.ggml.token_type"] = Value(ARRAY, tokenizer.vocabulary.types.tolist(), I32)
    lines = list(source.facts.corrections)
    stated = {
        metadata[key].value
        for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        if key in metadata
    }
    if not stated <= set(config.stop_ids) or (set(config.stop_ids) - stated and len(stated) < 2):
        lines += _write_stop_ids(FAMILIES[config.family], config.stop_ids, metadata)
    return lines


def _write_stop_ids(
    family: Family, stop_ids: Iterable[int], metadata: Metadata, named: Container[int] = ()
) -> list[str]:
    """The end of a text and the end of a turn: a GGUF file has a place for one of each.

    named: those that whoever reads the file knows by their names. They are said where there is room.
    """
    ids = sorted(stop_ids, key=lambda id: (id in named, id not in family.base_stop_ids, id))
    metadata["tokenizer.ggml.eos_token_id"] = Value(U32, ids[0])
    if len(ids) > 1:
        metadata["tokenizer.ggml.eot_token_id"] = Value(U32, ids[1])
    unsaid = [id for id in ids[2:] if id not in named]
    return [f"stop id {id} cannot be said in a GGUF file, which has a place for two" for id in unsaid]


# --- From a folder


def _built(source: Source) -> Metadata:
    """What converters write for this model."""
    facts, config = source.facts, source.config
    family = FAMILIES[config.family]
    parameters = sum(config.parameter_counts().values())
    metadata = {
        "general.architecture": Value(STRING, family.name),
        "general.type": Value(STRING, "model"),
        "general.name": Value(STRING, Path(facts.path).resolve().name),
        "general.size_label": Value(STRING, _size_label(parameters)),
    }
    if licence := facts.licence or family.licence:
        metadata["general.license"] = Value(STRING, licence)
    for number, repository in enumerate(base_models(Path(facts.path))):
        organisation, _, name = repository.partition("/")
        metadata["general.base_model.count"] = Value(U32, number + 1)
        metadata[f"general.base_model.{number}.name"] = Value(STRING, name)
        metadata[f"general.base_model.{number}.organization"] = Value(STRING, organisation)
        metadata[f"general.base_model.{number}.repo_url"] = Value(
            STRING, f"https://huggingface.co/{repository}"
        )
    metadata |= _sampling(source, family) | _architecture(source)
    byte_level = family.tokenizer == "byte-bpe"
    metadata |= _byte_tokenizer(source, family) if byte_level else _tokenizer(source, family)
    if facts.chat_template is not None:
        metadata["tokenizer.chat_template"] = Value(STRING, facts.chat_template)
    return metadata


def _size_label(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _sampling(source: Source, family: Family) -> Metadata:
    """What the folder recommends that is not the family's own default."""
    found, usual = source.facts.sampling, family.sampling
    keys = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}
    values = {
        f"general.sampling.{key}": Value(F32, getattr(found, name))
        for key, name in keys.items()
        if getattr(found, name) != getattr(usual, name)
    }
    if found.top_k != usual.top_k:
        values["general.sampling.top_k"] = Value(I32, found.top_k)
    return values


def _architecture(source: Source) -> Metadata:
    config = source.config
    values: dict[str, int | float | list[bool]] = {
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
    }
    family = FAMILIES[config.family]
    if family.configuration == "llama":
        values |= {"rope.dimension_count": config.head_dim, "vocab_size": config.vocab_size}
        return {f"{config.family}.{key}": _value(value) for key, value in values.items()}
    values["attention.sliding_window"] = config.sliding_window
    usual = tuple(
        "local" if (layer + 1) % family.layer_pattern else "global" for layer in range(config.num_layers)
    )
    if config.layer_types != usual:
        values["attention.sliding_window_pattern"] = [kind == "local" for kind in config.layer_types]
    if config.rope_local_theta != family.rope_local_theta:
        values["rope.freq_base_swa"] = float(config.rope_local_theta)
    return {f"{config.family}.{key}": _value(value) for key, value in values.items()}


def _value(value: int | float | list[bool]) -> Value:
    if isinstance(value, list):
        return Value(ARRAY, value, BOOL)
    return Value(F32 if isinstance(value, float) else U32, value)


def _tokenizer(source: Source, family: Family) -> Metadata:
    config, tokenizer = source.config, source.facts.tokenizer
    pieces = checked(tokenizer.path, read_pieces(tokenizer))
    names, scores, types = vocabulary_of(pieces, family)
    metadata = {
        "model": Value(STRING, "llama"),
        "pre": Value(STRING, "default"),
        "tokens": Value(ARRAY, names, STRING),
        "scores": Value(ARRAY, scores.tolist(), F32),
        "token_type": Value(ARRAY, types.tolist(), I32),
        "bos_token_id": Value(U32, config.bos_id),
        "unknown_token_id": Value(U32, pieces.unknown_id),
        "padding_token_id": Value(U32, config.pad_id),
        "add_bos_token": Value(BOOL, True),
        "add_sep_token": Value(BOOL, False),
        "add_eos_token": Value(BOOL, False),
        "add_space_prefix": Value(BOOL, family.add_space_prefix),
    }
    metadata = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    _write_stop_ids(family, config.stop_ids, metadata)
    return metadata


def _byte_tokenizer(source: Source, family: Family) -> Metadata:
    pieces = read_byte_pieces(source.facts.tokenizer)
    metadata = byte_tokenizer_metadata(pieces)
    metadata["tokenizer.ggml.padding_token_id"] = Value(U32, source.config.pad_id)
    stop_ids = source.config.stop_ids
    named = {id for id in stop_ids if pieces.names[id] in family.stop_names}
    _write_stop_ids(family, stop_ids, metadata, named)
    return metadata


def vocabulary_of(
    pieces: Pieces, family: Family
) -> tuple[list[bytes], NDArray[np.float32], NDArray[np.int32]]:
    """Pieces as GGUF files list them: text, score and type of each.

    User-defined pieces hold literal spaces, ordinary ones U+2581; a piece that no merge makes scores -1000, a
    byte 0. The family's own vocabulary gets the types that its publisher's files have.
    """
    types = np.array(pieces.types, np.int32)
    names = [
        (name.replace(SPACE, " ") if kind == USER_DEFINED else name).encode()
        for name, kind in zip(pieces.names, types.tolist(), strict=True)
    ]
    if len(names) == family.vocab_size and all(
        names[id] == mark for id, mark in family.vocabulary_marks.items()
    ):
        types = np.asarray(family.expected_types(), np.int32)
    scores = np.where(types == NORMAL, pieces.scores, 0.0)
    scores[np.isin(types, (CONTROL, UNKNOWN, USER_DEFINED))] = _SCORE_OF_META
    return names, scores.astype(np.float32), types


def as_vocabulary(names: list[bytes], scores: NDArray[np.float32], types: NDArray[np.int32]) -> Vocabulary:
    """The same as one value, to compare with what a file was read to hold."""
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    return Vocabulary(np.frombuffer(b"".join(names), np.uint8), ends, scores, types)
