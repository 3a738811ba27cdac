"""PEFT LoRA folders with random matrices, written without peft."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.model.config import ModelConfig
from tests.synthetic import HF_NAMES, safetensors_bytes, shapes

KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""The matrices of a layer, by canonical name."""

Entry = tuple[str, tuple[int, ...], bytes]


def config_of(rank: int = 4, kinds: Iterable[str] = KINDS, **changes: Any) -> dict[str, Any]:
    """What peft writes for a plain LoRA on these matrices, with changes."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [HF_NAMES[kind].split(".")[-1] for kind in kinds],
        "bias": "none",
        "base_model_name_or_path": "somewhere/else",
        "lora_dropout": 0.05,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "peft_version": "0.21.2",
    } | changes


def tensors_of(
    config: ModelConfig,
    rng: np.random.Generator,
    rank: int = 4,
    kinds: Iterable[str] = KINDS,
    *,
    layers: Iterable[int] | None = None,
    dtype: str = "F32",
) -> dict[str, Entry]:
    """A and B of these matrices, in every layer or in some, under peft's names. A product is about 0.1."""
    entries: dict[str, Entry] = {}
    for layer in range(config.num_layers) if layers is None else layers:
        for kind in kinds:
            rows, columns = shapes(config)[f"blk.{layer}.{kind}"]
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                size = 1.0 if side == "A" else 0.1
                values = rng.standard_normal(shape, dtype=np.float32) * np.float32(size * shape[1] ** -0.5)
                name = f"base_model.model.model.layers.{layer}.{HF_NAMES[kind]}.lora_{side}.weight"
                entries[name] = dtype, shape, as_stored(values, dtype)
    return entries


def as_stored(values: np.ndarray, dtype: str) -> bytes:
    """Float32 values as F32, F16 or BF16 (cut off)."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_adapter(
    folder: Path, configuration: Mapping[str, Any], tensors: Mapping[str, Entry], base: str | None = None
) -> Path:
    """The folder; `base`: hash of the weights that its manifest names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(dict(configuration)))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    if base is not None:
        manifest = {"gemlet_adapter": 1, "base_weights_sha256": base}
        (folder / "gemlet_adapter.json").write_text(json.dumps(manifest))
    return folder


def random_adapter(
    folder: Path, config: ModelConfig, seed: int, rank: int = 4, kinds: Iterable[str] = KINDS, **changes: Any
) -> Path:
    """A folder that any decoder of this configuration can load."""
    kinds = tuple(kinds)
    tensors = tensors_of(config, np.random.default_rng(seed), rank, kinds)
    return write_adapter(folder, config_of(rank, kinds, **changes), tensors)
