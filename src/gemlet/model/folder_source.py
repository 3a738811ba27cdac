"""A Hugging Face folder as a model: config.json and its companions understood."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemlet.errors import ModelFileError
from gemlet.formats.files import map_file, read_json
from gemlet.formats.safetensors import read_safetensors
from gemlet.formats.tensors import Tensor
from gemlet.model import llama_config
from gemlet.model.config import MAX_LAYERS, ConfigValueError, LayerType, ModelConfig
from gemlet.model.defects import correct_stop_ids, correct_values
from gemlet.model.description import Description, SourceFacts
from gemlet.model.families import FAMILIES, Family, file_name
from gemlet.model.keys import Keys
from gemlet.types import Sampling, TokenizerSource

CONFIG, GENERATION, INDEX = "config.json", "generation_config.json", "model.safetensors.index.json"
TEMPLATE_FILE, TOKENIZER_CONFIG, CARD = "chat_template.jinja", "tokenizer_config.json", "README.md"
TOKENIZERS = {"tokenizer.model": "sentencepiece", "tokenizer.json": "tokenizer-json"}
SINGLE = "model.safetensors"
MAX_SHARDS = 1 << 10
MAX_TEMPLATE_BYTES = 1 << 20

HARMLESS = frozenset(
    {
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "initializer_range",
        "cache_implementation",
        "attention_dropout",
        "unsloth_fixed",
        "unsloth_version",
        "architectures",
        "model_type",
    }
)
"""Keys of config.json that say nothing about what the model computes, or are checked apart."""

GENERATION_HARMLESS = frozenset(
    {
        "_from_model_config",
        "bos_token_id",
        "pad_token_id",
        "cache_implementation",
        "transformers_version",
        "max_length",
        "max_new_tokens",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
    }
)


def description_files(folder: Path) -> list[Path]:
    """The files beside the weights that a model is read from."""
    names = [CONFIG, GENERATION, *TOKENIZERS, TOKENIZER_CONFIG, TEMPLATE_FILE, CARD, INDEX]
    return [folder / name for name in names if (folder / name).exists()]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, in order. Raises ModelFileError for an index that cannot be."""
    return [folder / name for name in _shards(folder)]


def read_folder(folder: Path) -> tuple[Description, dict[str, Tensor], float]:
    """Description, tensors under canonical names, and the offset of norm weights."""
    if not (folder / CONFIG).exists():
        hint = "a checkpoint's folder holds config.json and *.safetensors"
        if files := sorted(path.name for path in folder.glob("*.gguf")):
            hint = f"the folder holds {', '.join(files[:10])}: give the path of the file itself"
        raise ModelFileError(folder, CONFIG, "is missing", hint=hint)
    config = read_json(folder / CONFIG)
    family = _family(folder, config)
    generation = read_json(folder / GENERATION) if (folder / GENERATION).exists() else {}
    values = {
        "format": "huggingface",
        "config": config,
        "generation": generation,
        "chat_template": read_chat_template(folder),
        "tokenizer": _tokenizer_file(folder),
        "licence": _licence(folder),
    }
    layers = Keys(str(folder / CONFIG), config).integer("num_hidden_layers", most=MAX_LAYERS)
    names = {
        file_name(hf_name): name for name, (hf_name, _) in family.tensor_rules(layers, tied=False).items()
    }
    tensors: dict[str, Tensor] = {}
    for name, (tensor, shard) in _tensors(folder).items():
        if name not in names:
            raise ModelFileError(shard, f"tensor {name!r}", f"is not part of a {family.name}")
        tensors[names[name]] = tensor
    if config.get("tie_word_embeddings", family.tied_by_default) is True:
        tensors.pop("output", None)  # some tools store a copy of the tied head
    return Description(values, None), tensors, family.hf_norm_offset


def describe(folder: Path, values: Mapping[str, Any]) -> SourceFacts:
    """What the folder's files state, with known defects put right."""
    family = _family(folder, values["config"])
    path = str(folder / CONFIG)
    read = llama_config.hf_values if family.configuration == "llama" else _config_values
    keys = Keys(path, values["config"])
    config_values = read(keys, family)
    _refuse_unknown(keys, HARMLESS)
    corrections = correct_values(family, config_values)
    generation = Keys(str(folder / GENERATION), values["generation"])
    stated = config_values["stop_ids"] + generation.ids("eos_token_id")
    chat_template = values["chat_template"]
    config_values["stop_ids"], lines = correct_stop_ids(family, stated, chat_template is not None)
    try:
        config = ModelConfig(**config_values)
    except ConfigValueError as error:
        raise ModelFileError(path, error.field, error.problem) from error
    name, sha256 = values["tokenizer"]
    tokenizer = TokenizerSource(
        kind="sentencepiece" if TOKENIZERS[name] == "sentencepiece" else "tokenizer-json",
        algorithm=family.tokenizer,
        rows=config.vocab_size,
        path=str(folder / name),
        sha256=sha256,
        bos_id=config.bos_id,
        pad_id=config.pad_id,
    )
    sampling = _sampling(generation, family)
    return SourceFacts(
        str(folder),
        "huggingface",
        config,
        tokenizer,
        chat_template,
        sampling,
        tuple(corrections + lines),
        values["licence"],
    )


def _family(folder: Path, config: Mapping[str, Any]) -> Family:
    keys = Keys(str(folder / CONFIG), config)
    model_type = keys.text("model_type")
    for family in FAMILIES.values():
        if family.hf_model_type == model_type:
            keys.expect("architectures", [family.hf_architecture])
            return family
    supported = ", ".join(family.hf_model_type for family in FAMILIES.values())
    raise ModelFileError(folder / CONFIG, "model_type", f"is {model_type[:40]!r}; supported are {supported}")


def _config_values(keys: Keys, family: Family) -> dict[str, Any]:
    layers = keys.integer("num_hidden_layers", most=MAX_LAYERS)
    hidden = keys.integer("hidden_size")
    keys.expect("attention_bias", False)
    keys.expect("attn_logit_softcapping", None)
    keys.expect("final_logit_softcapping", None)
    keys.expect("use_bidirectional_attention", False, None)
    keys.expect("hidden_activation", family.activation)
    keys.expect("hidden_act", family.activation)
    keys.expect("rope_scaling", None)
    rope_theta, rope_local_theta = _rope_thetas(keys, family)
    return {
        "family": family.name,
        "vocab_size": keys.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": keys.integer("intermediate_size"),
        "layer_types": _layer_types(keys, layers, family),
        "num_attention_heads": keys.integer("num_attention_heads"),
        "num_key_value_heads": keys.integer("num_key_value_heads"),
        "head_dim": keys.integer("head_dim", family.head_dim),
        "context_length": keys.integer("max_position_embeddings"),
        "sliding_window": keys.integer("sliding_window"),
        "rope_theta": rope_theta,
        "rope_local_theta": rope_local_theta,
        "rms_norm_eps": keys.number("rms_norm_eps", family.rms_norm_eps),
        "attention_scale": keys.number("query_pre_attn_scalar", family.query_pre_attn_scalar) ** -0.5,
        "embedding_scale": hidden**0.5,
        "tie_word_embeddings": keys.flag("tie_word_embeddings", True),
        "bos_id": keys.integer("bos_token_id", family.bos_id, least=0),
        "pad_id": keys.integer("pad_token_id", family.pad_id, least=0),
        "stop_ids": keys.ids("eos_token_id"),
    }


def _refuse_unknown(keys: Keys, harmless: frozenset[str]) -> None:
    unknown = [key for key in keys.unknown() if key not in harmless]
    if unknown:
        keys.fail(", ".join(unknown[:8])[:200], "is unknown; it may change what the model computes")


def _layer_types(keys: Keys, layers: int, family: Family) -> tuple[LayerType, ...]:
    """`layer_types` where it is given; else every pattern-th layer is global."""
    patterns = [
        keys.integer(key, family.layer_pattern)
        for key in ("sliding_window_pattern", "_sliding_window_pattern")
    ]
    stated = keys.get("layer_types", None)
    if stated is None:
        pattern = patterns[0] if "sliding_window_pattern" in keys else patterns[1]
        return tuple("local" if (layer + 1) % pattern else "global" for layer in range(layers))
    known: dict[str, LayerType] = {"sliding_attention": "local", "full_attention": "global"}
    if not isinstance(stated, list) or len(stated) != layers:
        keys.fail("layer_types", f"must be a list of {layers} names")
    if not all(isinstance(name, str) and name in known for name in stated):
        keys.fail("layer_types", f"has a name that is not one of {', '.join(known)}")
    return tuple(known[name] for name in stated)


def _rope_thetas(keys: Keys, family: Family) -> tuple[float, float]:
    """Bases of the global and the local layers, in either style of configuration."""
    thetas = {"full_attention": ("rope_theta", family.rope_theta)}
    thetas["sliding_attention"] = ("rope_local_base_freq", family.rope_local_theta)
    stated = keys.get("rope_parameters", None)
    if stated is None:
        stated = {}
    if not isinstance(stated, dict) or stated.keys() - thetas:
        keys.fail("rope_parameters", f"may hold only {' and '.join(thetas)}")
    result = []
    for kind, (old_key, default) in thetas.items():
        theta = keys.number(old_key, default)
        part = Keys(keys.path, stated.get(kind) or {}) if isinstance(stated.get(kind) or {}, dict) else None
        if part is None:
            keys.fail("rope_parameters", f"'{kind}' must be a mapping")
        part.expect("rope_type", "default")
        new = part.number("rope_theta", theta)
        if old_key in keys and new != theta:
            keys.fail("rope_parameters", f"contradicts {old_key}")
        _refuse_unknown(part, frozenset())
        result.append(new)
    return result[0], result[1]


def _sampling(keys: Keys, family: Family) -> Sampling:
    """The family's defaults, replaced by what the folder recommends; `do_sample` false means greedy."""
    limits = {"temperature": 100.0, "top_p": 1.0, "min_p": 1.0, "repetition_penalty": 100.0}
    stated: dict[str, Any] = {
        key: keys.number(key, least=0, most=most)
        for key, most in limits.items()
        if keys.get(key, None) is not None
    }
    if keys.get("top_k", None) is not None:
        stated["top_k"] = keys.integer("top_k", least=0)
    if not keys.flag("do_sample", True):
        stated["temperature"] = 0.0
    _refuse_unknown(keys, GENERATION_HARMLESS)
    return replace(family.sampling, **stated)


def _shards(folder: Path) -> list[str]:
    """File names of the weights, in order; each stays inside the folder."""
    if not (folder / INDEX).exists():
        return [SINGLE]
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(folder / INDEX, "weight_map", "must map tensors to files")
    shards = sorted({str(value) for value in weight_map.values()})
    if len(shards) > MAX_SHARDS:
        raise ModelFileError(folder / INDEX, "weight_map", f"names more than {MAX_SHARDS} files")
    for shard in shards:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors", shard):
            raise ModelFileError(folder / INDEX, "weight_map", f"names the file {shard[:80]!r}")
    return shards


def _tensors(folder: Path) -> dict[str, tuple[Tensor, Path]]:
    """Every tensor under its own name, and the file it is in."""
    tensors: dict[str, tuple[Tensor, Path]] = {}
    for shard in _shards(folder):
        content, _ = read_safetensors(folder / shard)
        for name, tensor in content.items():
            if name in tensors:
                raise ModelFileError(
                    folder / shard, f"tensor {name!r}", f"is also in {tensors[name][1].name}"
                )
            tensors[name] = tensor, folder / shard
    return tensors


def _tokenizer_file(folder: Path) -> tuple[str, str]:
    """The file that holds the tokenizer, and its sha256."""
    for name in TOKENIZERS:
        if (folder / name).exists():
            return name, hashlib.sha256(map_file(folder / name).data).hexdigest()
    raise ModelFileError(folder, " or ".join(TOKENIZERS), "is missing")


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a folder, as it is; None without one. Raises ModelFileError."""
    if (folder / TEMPLATE_FILE).exists():
        data = map_file(folder / TEMPLATE_FILE)[: MAX_TEMPLATE_BYTES + 1].tobytes()
        try:
            template: Any = data.decode()
        except UnicodeDecodeError as error:
            raise ModelFileError(folder / TEMPLATE_FILE, "file", "is not UTF-8") from error
    elif (folder / TOKENIZER_CONFIG).exists():
        template = read_json(folder / TOKENIZER_CONFIG).get("chat_template")
    else:
        return None
    if isinstance(template, list):  # several named templates
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is None:
        return None
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE_BYTES:
        raise ModelFileError(folder, "chat_template", f"must be text of at most {MAX_TEMPLATE_BYTES} bytes")
    return template


def _licence(folder: Path) -> str | None:
    """The licence that the model card's first lines state."""
    if not (folder / CARD).exists():
        return None
    head = map_file(folder / CARD, at_least=0)[:4096].tobytes().decode(errors="replace")
    found = re.search(r"^license:[ \t]*([\w.-]+)", head, re.MULTILINE)
    return found[1] if found else None
