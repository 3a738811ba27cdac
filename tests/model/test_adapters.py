"""PEFT folders: what is computed from them, and what each refusal names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import ModelFileError
from gemlet.model.adapters import AdapterFile, read_adapter
from gemlet.ops.packed import unpack
from tests.adapters import KINDS, Entry, config_of, random_adapter, tensors_of, write_adapter
from tests.synthetic import tiny_config

CONFIG = tiny_config(layers=3)
PREFIX = "base_model.model.model.layers"


def read(
    folder: Path,
    configuration: dict[str, Any] | None = None,
    change: Callable[[dict[str, Entry]], object] = lambda tensors: None,
    **options: Any,
) -> AdapterFile:
    """An adapter of CONFIG whose tensors may be changed, written and read."""
    tensors = tensors_of(CONFIG, np.random.default_rng(0), **options)
    change(tensors)
    kinds = options.get("kinds", KINDS)
    written = config_of(options.get("rank", 4), kinds) if configuration is None else configuration
    return read_adapter(write_adapter(folder, written, tensors), CONFIG)


def refused(problem: str, field: str, call: Callable[[], object]) -> None:
    with pytest.raises(ModelFileError) as caught:
        call()
    assert field in caught.value.field, caught.value
    assert problem in caught.value.problem, caught.value


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_matrices_are_those_of_the_file(tmp_path: Path, dtype: str) -> None:
    tensors = tensors_of(CONFIG, np.random.default_rng(0), dtype=dtype)
    adapter = read(tmp_path, dtype=dtype)
    assert len(adapter.parts) == 7 * 3
    part = adapter.parts["blk.2.ffn_down"]
    for packed, side in ((part.a, "A"), (part.b, "B")):
        _, shape, data = tensors[f"{PREFIX}.2.mlp.down_proj.lora_{side}.weight"]
        if dtype == "BF16":
            expected = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            expected = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
        np.testing.assert_array_equal(unpack(packed), expected.reshape(shape))
    assert part.a.nbytes + part.b.nbytes == part.nbytes
    assert (adapter.rank, adapter.modules) == (4, KINDS)
    assert adapter.parameters == sum(np.prod(shape) for _, shape, _ in tensors.values())


def scales(adapter: AdapterFile) -> set[float]:
    return {part.scale for part in adapter.parts.values()}


def test_scales(tmp_path: Path) -> None:
    assert scales(read(tmp_path / "a", config_of(4, lora_alpha=6))) == {1.5}
    assert scales(read(tmp_path / "b", config_of(4, lora_alpha=6, use_rslora=True))) == {3.0}
    without = config_of(8)
    del without["r"], without["lora_alpha"]
    assert scales(read(tmp_path / "c", without, rank=8)) == {1.0}  # peft's defaults: 8 and 8
    patterns = {"q_proj": 4, r"layers\.[01]\.mlp\..*": 12, "proj": 100}
    by_name = read(tmp_path / "d", config_of(4, lora_alpha=8, alpha_pattern=patterns)).parts
    assert by_name["blk.1.attn_q"].scale == 1
    assert by_name["blk.1.ffn_up"].scale == 3
    assert by_name["blk.2.ffn_up"].scale == 2  # "proj" is no whole part of a name


def test_ranks_by_pattern(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = tensors_of(CONFIG, rng, 4) | tensors_of(CONFIG, rng, 9, ["attn_v"])
    pattern = {"self_attn.v_proj": 9}
    folder = write_adapter(tmp_path, config_of(4, lora_alpha=18, rank_pattern=pattern), tensors)
    parts = read_adapter(folder, CONFIG).parts
    assert (parts["blk.0.attn_v"].a.rows, parts["blk.0.attn_v"].scale) == (9, 2)
    assert (parts["blk.0.attn_q"].a.rows, parts["blk.0.attn_q"].scale) == (4, 4.5)


@pytest.mark.parametrize(
    ("targets", "kinds", "layers"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, ["attn_q", "ffn_down"], None),
        ({"target_modules": "all-linear"}, KINDS, None),
        ({"target_modules": r".*\.(q|v)_proj"}, ["attn_q", "attn_v"], None),
        ({"target_modules": r"model\.layers\.1\..*_proj"}, KINDS, [1]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}, ["attn_q"], [0, 2]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
         ["attn_q"], [1]),
        ({"target_modules": ["model.layers.2.mlp.up_proj"]}, ["ffn_up"], [2]),
        ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "q_proj"]},
         [kind for kind in KINDS if kind not in ("ffn_up", "attn_q")], None),
        ({"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*k_proj"}, ["attn_q"], None),
    ],
)  # fmt: skip
def test_target_modules(tmp_path: Path, targets: dict[str, Any], kinds: Any, layers: Any) -> None:
    adapter = read(tmp_path, config_of(4, **targets), kinds=kinds, layers=layers)
    assert set(adapter.parts) == {f"blk.{layer}.{kind}" for layer in layers or range(3) for kind in kinds}


@pytest.mark.parametrize("root", ["model.language_model.layers", "language_model.model.layers"])
def test_names_inside_a_model_that_sees_images(tmp_path: Path, root: str) -> None:
    def rename(tensors: dict[str, Entry]) -> None:
        for name in list(tensors):
            tensors[name.replace("model.layers", root, 1)] = tensors.pop(name)

    assert len(read(tmp_path, change=rename).parts) == 21


def test_names_with_the_adapters_own(tmp_path: Path) -> None:
    def rename(tensors: dict[str, Entry]) -> None:
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    assert len(read(tmp_path, change=rename).parts) == 21


HARMLESS = {"init_lora_weights": "gaussian", "fan_in_fan_out": True, "a_switch_of_the_future": False}


def test_what_changes_nothing_is_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, config_of(4, **HARMLESS)).parts


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"peft_type": "IA3"}, "peft_type", "IA3"),
        ({"peft_type": None}, "peft_type", "None"),
        ({"task_type": "SEQ_CLS"}, "task_type", "SEQ_CLS"),
        ({"use_dora": True}, "use_dora", "not supported"),
        ({"bias": "lora_only"}, "bias", "lora_only"),
        ({"lora_bias": True}, "lora_bias", "not supported"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "modules_to_save", "lm_head"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices", ""),
        ({"target_parameters": ["experts"]}, "target_parameters", ""),
        ({"layer_replication": [[0, 2]]}, "layer_replication", ""),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights", "pissa"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights", "loftq"),
        ({"use_qalora": True}, "use_qalora", ""),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens", "unknown"),
        ({"surprise": 1}, "surprise", "unknown"),
        ({"r": 0}, "r", "whole number"),
        ({"r": 4.0}, "r", "whole number"),
        ({"r": 1 << 20}, "r", "whole number from 1 to 1024"),
        ({"lora_alpha": "8"}, "lora_alpha", "number"),
        ({"lora_alpha": -1}, "lora_alpha", "number"),
        ({"use_rslora": 1}, "use_rslora", "true or false"),
        ({"rank_pattern": {"q_proj": 1.5}}, "rank_pattern q_proj", "whole number"),
        ({"rank_pattern": [4]}, "rank_pattern", "must map"),
        ({"alpha_pattern": {"(": 4}}, "patterns", "not supported"),
        ({"target_modules": "(?!q).*"}, "patterns", "special kind"),
        ({"target_modules": None}, "target_modules", "missing"),
        ({"target_modules": 7}, "target_modules", "list of names"),
        ({"target_modules": ["nothing"]}, "target_modules", "no module"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules", "lm_head"),
        ({"target_modules": ["embed_tokens"]}, "target_modules", "embed_tokens"),
        ({"target_modules": "all-linear", "layers_to_transform": [1]}, "layers_to_transform", "combined"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform", "number"),
        ({"layers_pattern": "blocks"}, "layers_pattern", "blocks"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(tmp_path: Path, changes: Any, field: str, problem: str) -> None:
    refused(problem, field, lambda: read(tmp_path, config_of(4, **changes)))


NAME = f"{PREFIX}.1.self_attn.k_proj.lora_B.weight"


def test_wrong_ranks_and_other_bases(tmp_path: Path) -> None:
    refused("rank 5", "lora_A.weight", lambda: read(tmp_path, config_of(5)))
    refused("rank 4", "q_proj.lora_A", lambda: read(tmp_path, config_of(4), rank=3))
    random_adapter(tmp_path, tiny_config(layers=3, hidden_size=96), 0)
    refused("[4, 64]", "lora_A.weight", lambda: read_adapter(tmp_path, CONFIG))
    random_adapter(tmp_path, tiny_config(layers=4), 0)
    refused("no module", "layers.3", lambda: read_adapter(tmp_path, CONFIG))
    random_adapter(tmp_path, tiny_config(layers=2), 0)
    refused("missing", "layers.2.self_attn.q_proj.lora_A", lambda: read_adapter(tmp_path, CONFIG))


@pytest.mark.parametrize("name", [NAME, NAME.replace("lora_B", "lora_A")])
def test_a_missing_tensor(tmp_path: Path, name: str) -> None:
    refused(
        "missing",
        name.removeprefix("base_model.model."),
        lambda: read(tmp_path, change=lambda t: t.pop(name)),
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (f"{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("base_model.model.lm_head.weight", "the head"),
        ("base_model.model.lm_head.lora_A.weight", "the head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "adapts the embedding"),
        ("base_model.model.model.norm.modules_to_save.weight", "replaces a module"),
        (f"{PREFIX}.0.self_attn.q_norm.lora_A.weight", "no module"),
        ("base_model.model.vision_tower.layers.0.q_proj.lora_A.weight", "no module"),
        (NAME.replace("model.layers", "model.language_model.layers"), "no module"),
        (f"{PREFIX}.0.self_attn.q_proj.lora_A.other.weight", "no module"),
    ],
)  # fmt: skip
def test_a_tensor_too_many(tmp_path: Path, name: str, problem: str) -> None:
    refused(problem, name, lambda: read(tmp_path, change=lambda t: t.update({name: ("F32", (1,), bytes(4))})))


def test_tensors_that_are_there_twice_or_of_no_target(tmp_path: Path) -> None:
    twin = NAME.replace(".weight", ".default.weight")
    refused("twice", twin, lambda: read(tmp_path, change=lambda t: t.update({twin: t[NAME]})))
    refused("not targeted", "k_proj", lambda: read(tmp_path, config_of(4, ["attn_q"])))


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_not_finite_is_refused(tmp_path: Path, bits: int, dtype: str) -> None:
    def spoil(tensors: dict[str, Entry]) -> None:
        _, shape, data = tensors[NAME]
        value = np.array([bits], np.uint32)
        bad = value.tobytes() if dtype == "F32" else (value >> 16).astype("<u2").tobytes()
        if dtype == "F16":
            bad = value.view(np.float32).astype("<f2").tobytes()
        tensors[NAME] = dtype, shape, data[: -len(bad)] + bad

    refused("NaN or infinity", NAME, lambda: read(tmp_path, change=spoil, dtype=dtype))


def test_other_types_of_tensors(tmp_path: Path) -> None:
    for dtype, size in (("I8", 1), ("F64", 8), ("I32", 4)):

        def retype(tensors: dict[str, Entry], dtype: str = dtype, size: int = size) -> None:
            shape = tensors[NAME][1]
            tensors[NAME] = dtype, shape, bytes(int(np.prod(shape)) * size)

        refused(dtype, NAME, lambda retype=retype: read(tmp_path, change=retype))


def test_folders_that_are_none(tmp_path: Path) -> None:
    refused("missing", "adapter_config.json", lambda: read_adapter(tmp_path, CONFIG))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config_of()))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    refused("missing", "adapter_model.safetensors", lambda: read_adapter(tmp_path, CONFIG))
    write_adapter(tmp_path, config_of(), {"x": ("F32", (1,), bytes(4))})
    refused("none is of a LoRA", "tensors", lambda: read_adapter(tmp_path, CONFIG))
    entry = "base_model.model.transformer.h.0.lora_A.weight"
    write_adapter(tmp_path, config_of(), {entry: ("F32", (1,), bytes(4))})
    refused("none is of a layer of a gemma3", "tensors", lambda: read_adapter(tmp_path, CONFIG))


def test_the_manifest_names_the_base(tmp_path: Path) -> None:
    ours, other = "ab" * 32, "cd" * 32
    foreign = read(tmp_path)
    assert foreign.base_sha256 is None and "does not say" in foreign.notices[0]
    write_adapter(tmp_path, config_of(), tensors_of(CONFIG, np.random.default_rng(0)), base=ours)
    known = read_adapter(tmp_path, CONFIG, ours)
    assert (known.base_sha256, known.notices, known.sha256) == (ours, (), foreign.sha256)
    refused(
        "this model's weights are cdcd", "base_weights_sha256", lambda: read_adapter(tmp_path, CONFIG, other)
    )
    assert read_adapter(tmp_path, CONFIG).base_sha256 == ours  # a model that is only looked at has no hash
    manifest = tmp_path / "gemlet_adapter.json"
    for content, field in [
        ({"base_weights_sha256": ours}, "gemlet_adapter"),
        ({"gemlet_adapter": 2, "base_weights_sha256": ours}, "gemlet_adapter"),
        ({"gemlet_adapter": 1}, "base_weights_sha256"),
        ({"gemlet_adapter": 1, "base_weights_sha256": "x"}, "base_weights_sha256"),
        ({"gemlet_adapter": 1, "base_weights_sha256": ours, "extra": 1}, "extra"),
    ]:
        manifest.write_text(json.dumps(content))
        refused("", field, lambda: read_adapter(tmp_path, CONFIG, ours))
    manifest.write_text(
        json.dumps({"gemlet_adapter": 1, "base_weights_sha256": ours, "provenance": {"a": 1}})
    )
    assert read_adapter(tmp_path, CONFIG, ours).base_sha256 == ours


def test_the_hash_is_of_both_files(tmp_path: Path) -> None:
    hashes = {
        random_adapter(tmp_path / "a", CONFIG, 0): "",
        random_adapter(tmp_path / "b", CONFIG, 1): "",
        random_adapter(tmp_path / "c", CONFIG, 0, lora_alpha=9): "",
    }
    assert len({read_adapter(folder, CONFIG).sha256 for folder in hashes}) == 3


def test_it_is_called_as_its_folder_or_repository(tmp_path: Path) -> None:
    assert read(tmp_path / "mine").name == "mine"
    assert read(tmp_path / "models--someone--their-lora/snapshots/0123abc").name == "their-lora"
