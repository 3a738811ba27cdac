"""`gemlet show`: what a model file is, read from its header; no weights are loaded."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.flags import named_once
from gemlet.cli.terminal import note, print_json
from gemlet.cli.terms import TERMS
from gemlet.machine.threads import threads
from gemlet.types import as_dict

if TYPE_CHECKING:
    from gemlet.model.sources import Source

DESCRIPTION = "Describe a model: architecture, types and sizes, licence, tokenizer, chat format, memory."
EXAMPLES = (
    "gemlet show",
    "gemlet show ~/models/gemma-3-1b-it-q4_0.gguf",
    "gemlet show gemma-3-1b-it+~/adapters/support",
    "gemlet show --json | jq .kv_bytes",
)

CONTEXTS = (512, 2048, 8192, 32768)
"""Context lengths, in tokens, at which the key-value memory is priced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet show`."""
    parser.add_argument("reference", nargs="?", metavar="MODEL", help="model name, path or org/repo")
    parser.add_argument("-m", "--model", metavar="REF", help="the same, as a flag")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.model.sources import open_source
    from gemlet.store.references import resolve

    found = resolve(named_once(parsed))
    for line in found.notices:
        note(line)
    source = open_source(found.path)
    description = describe(source) | {"store": stored_of(found.path)}
    if found.adapter is not None:
        from gemlet.model.adapters import describe as describe_adapter
        from gemlet.model.adapters import read_adapter

        description["adapter"] = describe_adapter(read_adapter(found.adapter, source.config))
    if parsed.json:
        print_json(description)
    else:
        print("\n".join(f"{name:<13}{text}" for name, text in rows(description)))
    return 0


def stored_of(path: Path) -> dict[str, Any] | None:
    """The download and what was made of it, in bytes, and when its terms were accepted; None for what the
    store knows nothing of.
    """
    from gemlet.provenance.licences import find_licence
    from gemlet.provenance.releases import REPOSITORIES
    from gemlet.store.acceptance import acceptances
    from gemlet.store.inventory import entries

    entry = next((entry for entry in entries() if entry.path.resolve() == path.resolve()), None)
    if entry is None:
        return None
    known = REPOSITORIES.get(entry.reference.partition(":")[0].partition("@")[0])
    licence = None if known is None else find_licence(known.licence)
    accepted = None if licence is None else acceptances().get(licence.id)
    return {
        "reference": entry.reference,
        "revision": entry.revision,
        "download_bytes": entry.nbytes,
        "packed_bytes": entry.packed_bytes,
        "complete": entry.complete,
        "terms_accepted": None if accepted is None else accepted.accepted,
    }


def describe(source: Source) -> dict[str, Any]:
    """What is known about a model, as a JSON-ready dictionary. Sizes are in bytes."""
    facts, config = source.facts, source.config
    stored: dict[str, dict[str, int]] = {}
    for tensor in source.tensors.values():
        kind = stored.setdefault(tensor.kind, {"tensors": 0, "bytes": 0})
        kind["tensors"] += 1
        kind["bytes"] += tensor.data.nbytes
    counts = config.parameter_counts()
    contexts = [tokens for tokens in CONTEXTS if tokens < config.context_length] + [config.context_length]
    return {
        "path": facts.path,
        "format": facts.format,
        "family": config.family,
        "chat": facts.chat_template is not None,
        "parameters": counts | {"total": sum(counts.values())},
        "config": as_dict(config),
        "stored": dict(sorted(stored.items(), key=lambda item: -item[1]["bytes"])),
        "bytes": sum(kind["bytes"] for kind in stored.values()),
        "kv_bytes": {str(tokens): config.kv_bytes(tokens) for tokens in contexts},
        "tokenizer": {"kind": facts.tokenizer.kind, "sha256": facts.tokenizer.sha256},
        "chat_template": _template(facts.chat_template),
        "stop_ids": list(config.stop_ids),
        "sampling": as_dict(facts.sampling),
        "licence": facts.licence,
        "threads": as_dict(threads()),
        "corrections": list(facts.corrections),
    }


def rows(description: dict[str, Any]) -> list[tuple[str, str]]:
    """The description as lines for a person: a name and a text each."""
    config, layers = description["config"], description["config"]["layer_types"]
    kind = "chat model" if description["chat"] else "base model (its files carry no chat format)"
    licence = description["licence"]
    return [
        (
            "model",
            f"{description['family']}, {kind}, {description['parameters']['total'] / 1e6:,.1f} M parameters",
        ),
        ("file", description["path"]),
        ("size", f"{_megabytes(description['bytes'])}: {_stored(description['stored'])}"),
        (
            "layers",
            f"{len(layers)}: {layers.count('local')} local (window {config['sliding_window']}), "
            f"{layers.count('global')} global"
            if "local" in layers
            else f"{len(layers)}, all global (each sees the whole context)",
        ),
        ("width", f"{config['hidden_size']}, feed-forward {config['intermediate_size']}"),
        (
            "attention",
            f"{config['num_attention_heads']} heads, {config['num_key_value_heads']} for keys and values, "
            f"{config['head_dim']} wide",
        ),
        ("vocabulary", f"{config['vocab_size']} pieces ({description['tokenizer']['kind']})"),
        ("context", f"{config['context_length']} tokens"),
        (
            "key-values",
            ", ".join(f"{tokens} tokens {_mebibytes(n)}" for tokens, n in description["kv_bytes"].items()),
        ),
        ("threads", f"{description['threads']['count']} here: {description['threads']['reason']}"),
        ("template", _template_text(description["chat_template"])),
        ("stop ids", ", ".join(map(str, description["stop_ids"]))),
        ("sampling", _sampling(description["sampling"])),
        ("licence", TERMS.get(licence, licence) if licence else "the files do not say"),
        *(("corrected", line) for line in description["corrections"]),
        *_store(description.get("store")),
        *_adapter(description.get("adapter")),
    ]


def _store(store: dict[str, Any] | None) -> list[tuple[str, str]]:
    if store is None:
        return []
    packed = _megabytes(store["packed_bytes"]) if store["packed_bytes"] else "nothing"
    revision = "" if store["revision"] is None else f", revision {store['revision'][:12]}"
    rows = [("stored", f"{_megabytes(store['download_bytes'])}{revision}; packed {packed}")]
    if store["terms_accepted"] is not None:
        rows.append(("terms", f"accepted {store['terms_accepted'][:10]}"))
    return rows


def _adapter(adapter: dict[str, Any] | None) -> list[tuple[str, str]]:
    if adapter is None:
        return []
    base = adapter["base_weights_sha256"]
    trained = (
        f"weights with sha256 {base[:16]}…" if base else "its files do not say; its shapes fit this model"
    )
    return [
        ("adapter", f"{adapter['path']}, sha256 {adapter['sha256'][:16]}…"),
        (
            "low rank",
            f"{adapter['rank']}, on {', '.join(adapter['modules'])}: "
            f"{adapter['parameters'] / 1e6:,.1f} M parameters, {_megabytes(adapter['bytes'])}",
        ),
        ("trained on", trained),
    ]


def _template(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    return {"characters": len(text), "sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()}


def _template_text(template: dict[str, Any] | None) -> str:
    if template is None:
        return "none"
    return f"{template['characters']} characters, sha256 {template['sha256'][:16]}…"


def _stored(stored: dict[str, dict[str, int]]) -> str:
    return ", ".join(
        f"{kind} {_megabytes(size['bytes'])} ({size['tensors']})" for kind, size in stored.items()
    )


def _sampling(sampling: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in sampling.items() if name in ("temperature", "top_k", "top_p")
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
