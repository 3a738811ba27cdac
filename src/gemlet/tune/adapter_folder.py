"""A trained adapter as a PEFT folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.formats.files import replaced_file
from gemlet.formats.safetensors import checkpoint_header
from gemlet.model.adapters import CHAT_TEMPLATE, CONFIG, MANIFEST, MANIFEST_VERSION, WEIGHTS
from gemlet.model.families import FAMILIES
from gemlet.tune.network import Network

PEFT_VERSION = "0.15.0"
"""The oldest whose configuration has these fields."""


def write_adapter(
    folder: Path,
    network: Network,
    base: tuple[str, str],
    provenance: dict[str, Any],
    chat_template: str | None = None,
) -> None:
    """Write what `model.adapters.read_adapter` and peft read.

    base: reference and sha256 of the weights it belongs to. chat_template: of a format that the base model
    had not. Each file takes its place whole; the configuration comes last, so that a folder with one is
    complete. Raises OSError where it cannot be written.
    """
    assert network.lora is not None
    reference, sha256 = base
    family = FAMILIES[network.config.family]
    rules = family.tensor_rules(network.config.num_layers, network.config.tie_word_embeddings)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, matrix in network.adapted.items():
        module = f"base_model.model.{rules[name][0]}"
        arrays[f"{module}.lora_A.weight"] = matrix.a.detach().float().numpy()
        arrays[f"{module}.lora_B.weight"] = matrix.b.detach().float().numpy()
    described = {name: ("F32", values.shape, values.nbytes) for name, values in arrays.items()}
    with replaced_file(folder / WEIGHTS) as file:
        file.write(checkpoint_header(described))
        for values in arrays.values():
            file.write(np.ascontiguousarray(values).data)
    if chat_template is not None:
        _write(folder / CHAT_TEMPLATE, chat_template)
    manifest = {
        "gemlet_adapter": MANIFEST_VERSION,
        "base_weights_sha256": sha256,
        "provenance": provenance,
    }
    _write(folder / MANIFEST, _json(manifest))
    targets = sorted({rules[name][0].split(".")[-1] for name in network.adapted})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": reference,
        "r": network.lora.rank,
        "lora_alpha": network.lora.alpha,
        "lora_dropout": network.lora.dropout,
        "use_rslora": network.lora.rooted,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": targets,
        "peft_version": PEFT_VERSION,
    }
    _write(folder / CONFIG, _json(config))


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with replaced_file(path) as file:
        file.write(text.encode())
