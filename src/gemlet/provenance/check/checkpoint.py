"""Whether a Hugging Face folder of Gemma 3 is what the publisher made: each known trap is a finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemlet.errors import ModelFileError
from gemlet.model.families import GEMMA3
from gemlet.model.folder_source import CONFIG, GENERATION, TOKENIZER_CONFIG
from gemlet.model.sources import open_source
from gemlet.provenance.check.claims import words
from gemlet.provenance.check.content import check_head, check_norms, check_values
from gemlet.provenance.check.findings import Finding
from gemlet.provenance.check.published import (
    CLASS_DEFAULTS,
    CONTEXT,
    END_OF_TURN,
    SPECIAL_IDS,
    WINDOW,
    Published,
    published,
)
from gemlet.provenance.check.subject import Adapter, Checkpoint
from gemlet.provenance.check.template import check_template
from gemlet.provenance.check.tokens import check_tokenizer_files
from gemlet.provenance.check.traps import trap
from gemlet.text.template import TURN_END


def check_checkpoint(checkpoint: Checkpoint, quick: bool = False) -> list[Finding]:
    """Findings about a folder with config.json. `quick`: tensors are not read."""
    where, config = str(checkpoint.path), checkpoint.config
    found: list[Finding] = []
    if config.get("model_type") == GEMMA3.hf_model_type:
        found += _check_config(checkpoint)
        found += _check_stops(checkpoint)
        found += _check_tokenizer(checkpoint)
        embedding = checkpoint.tensors.get("model.embed_tokens.weight")
        found += check_tokenizer_files(checkpoint, embedding.shape[0] if embedding is not None else None)
        found += check_head(where, embedding, checkpoint.tensors.get("lm_head.weight"))
        if not any(finding.severity == "error" for finding in found):
            found += _loadable(checkpoint)
        if not quick:
            found += check_norms(where, checkpoint.tensors, ready=False)
    else:
        found.append(trap("other-family", where, f"its model_type is {str(config.get('model_type'))[:40]!r}"))
    if not quick:
        found += check_values(where, checkpoint.tensors)
    return found


def check_adapter(adapter: Adapter, quick: bool = False) -> list[Finding]:
    """Findings about a PEFT folder."""
    found = []
    saved = adapter.config.get("modules_to_save") or []
    if isinstance(saved, list) and {"embed_tokens", "lm_head"} & set(map(str, saved)):
        what = f"modules_to_save is {', '.join(map(str, saved))[:80]}"
        found.append(trap("head-untied", adapter.path / "adapter_config.json", what))
    return found if quick else found + check_values(str(adapter.path), adapter.tensors)


def _loadable(checkpoint: Checkpoint) -> list[Finding]:
    try:
        open_source(checkpoint.path)
    except ModelFileError as error:
        return [trap("not-loadable", f"{error.path}: {error.field}", error.problem)]
    return []


def _check_config(checkpoint: Checkpoint) -> list[Finding]:
    config, where = checkpoint.config, checkpoint.path / CONFIG
    missing = [key for key in CLASS_DEFAULTS if key not in config]
    found = []
    if missing:
        stood = ", ".join(f"{key} ({CLASS_DEFAULTS[key]} by default)" for key in missing)
        found.append(trap("sparse-config", where, f"it leaves out {stood}"))
    found += [
        trap("rope-theta", where, f"{key} is {value}, not {right:g}")
        for key, value, right in _thetas(config)
        if value != right
    ]
    stored = config.get("torch_dtype", config.get("dtype"))
    if stored in ("float16", "half", "fp16"):
        found.append(trap("half-precision", where, f"it asks for {stored}"))
    model = published(config.get("hidden_size"), config.get("num_hidden_layers"))
    if model is None:
        return [*found, *([] if missing else [_unknown(checkpoint)])]
    return found + _check_sizes(checkpoint, model)


def _unknown(checkpoint: Checkpoint) -> Finding:
    hidden, layers = (checkpoint.config.get(key) for key in ("hidden_size", "num_hidden_layers"))
    return trap(
        "unknown-shape",
        checkpoint.path / CONFIG,
        f"hidden size {hidden} and {layers} layers are no published shape",
    )


def _check_sizes(checkpoint: Checkpoint, model: Published) -> list[Finding]:
    config, where, found = checkpoint.config, checkpoint.path / CONFIG, []
    if config.get("head_dim", GEMMA3.head_dim) != GEMMA3.head_dim:
        found.append(trap("head-dim", where, f"head_dim is {config['head_dim']}"))
    if config.get("rope_scaling") is not None:
        found.append(trap("rope-theta", where, f"rope_scaling is {str(config['rope_scaling'])[:80]}"))
    if config.get("sliding_window", WINDOW) != WINDOW:
        found.append(trap("window", where, f"sliding_window is {config['sliding_window']}"))
    sizes = {
        "intermediate_size": model.intermediate_size,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": CONTEXT,
        "vocab_size": GEMMA3.vocab_size,
    }
    return found + [
        trap("size-differs", where, f"{key} is {config[key]}, {model.name} has {right}")
        for key, right in sizes.items()
        if config.get(key, right) != right
    ]


def _thetas(config: Mapping[str, Any]) -> list[tuple[str, object, float]]:
    """Stated rope bases: name, value, and what is right."""
    stated = [
        ("rope_theta", config.get("rope_theta"), GEMMA3.rope_theta),
        ("rope_local_base_freq", config.get("rope_local_base_freq"), GEMMA3.rope_local_theta),
    ]
    parts = config.get("rope_parameters")
    if isinstance(parts, dict):
        for name, right in (
            ("full_attention", GEMMA3.rope_theta),
            ("sliding_attention", GEMMA3.rope_local_theta),
        ):
            part = parts.get(name)
            if isinstance(part, dict):
                stated.append((f"rope_parameters.{name}.rope_theta", part.get("rope_theta"), right))
    return [(name, value, right) for name, value, right in stated if value is not None]


def _check_stops(checkpoint: Checkpoint) -> list[Finding]:
    """The special ids, and that a chat model names the end of a turn."""
    found = []
    for source, name in ((checkpoint.config, CONFIG), (checkpoint.generation, GENERATION)):
        for key, right in (("bos_token_id", SPECIAL_IDS["bos"]), ("pad_token_id", SPECIAL_IDS["padding"])):
            if source.get(key, right) != right:
                found.append(
                    trap("special-ids", checkpoint.path / name, f"{key} is {source[key]}, not {right}")
                )
    stops = {
        id for source in (checkpoint.config, checkpoint.generation) for id in _ids(source.get("eos_token_id"))
    }
    if checkpoint.template is not None and END_OF_TURN not in stops:
        what = f"it has a chat template, and its stop ids are {sorted(stops)}"
        found.append(trap("end-of-turn", checkpoint.path / GENERATION, what, severity="error"))
    return found


def _ids(value: object) -> list[int]:
    return [id for id in (value if isinstance(value, list) else [value]) if type(id) is int]


def _check_tokenizer(checkpoint: Checkpoint) -> list[Finding]:
    settings, where = checkpoint.tokenizer, checkpoint.path / TOKENIZER_CONFIG
    found = []
    eos = settings.get("eos_token")
    if (eos.get("content") if isinstance(eos, dict) else eos) == TURN_END:
        found.append(trap("tokenizer-eos", where, f"eos_token is {TURN_END}"))
    if settings.get("add_bos_token", True) is not True:
        found.append(trap("bos-flag", where, "add_bos_token is false"))
    template = checkpoint.template
    claimed = words([checkpoint.config.get("_name_or_path", ""), checkpoint.path.name])
    if template is None:
        if {"it", "instruct", "chat"} & claimed:
            found.append(trap("template-missing", where, "it calls itself a chat model and has none"))
        return found
    found += check_template(where, template)
    if {"pt", "base", "pretrained"} & claimed and "it" not in claimed:
        found.append(
            trap("chat-on-base", where, "it calls itself a pretrained model and has a chat template")
        )
    if settings.get("add_bos_token") is True and "bos_token" in template:
        found.append(trap("double-bos", where, "the template prints <bos>, and add_bos_token is true"))
    return found
