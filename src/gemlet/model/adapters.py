"""PEFT LoRA folders: read strictly, and made into what is added to the products of a model.

A folder holds adapter_config.json and adapter_model.safetensors. One that gemlet made also holds
gemlet_adapter.json, which names the weights it was trained on:

    {"gemlet_adapter": 1, "base_weights_sha256": "…", "provenance": {…}}

`base_weights_sha256` is the manifest's `weights_sha256` of the base; `provenance` may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from gemlet.errors import ModelFileError
from gemlet.formats.files import map_file, read_json
from gemlet.formats.safetensors import read_safetensors
from gemlet.formats.tensors import Tensor
from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES
from gemlet.model.fingerprint import content_sha256
from gemlet.model.keys import Keys
from gemlet.model.module_patterns import PatternError, Patterns
from gemlet.ops.operations import LowRank
from gemlet.ops.packed import pack

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "gemlet_adapter.json"
CHAT_TEMPLATE = "chat_template.jinja"
ADAPTER_FILES = (CONFIG, WEIGHTS, MANIFEST, CHAT_TEMPLATE)
MANIFEST_VERSION = 1

MAX_TEMPLATE_BYTES = 1 << 20

MAX_RANK = 1024
"""As in native/include/gemlet/adapter.h."""

_ROOTS = ("model.", "model.language_model.", "language_model.model.")
"""What comes before `layers.N` in a module's name: in a text model, or inside one that also sees images."""

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")

_HARMLESS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
    # How training began: what came of it is in the tensors.
    "eva_config",
    "megatron_core",
    "qalora_group_size",
    # Of the embedding and the head, which are refused; and of a layer type that Gemma has not.
    "ensure_weight_tying",
    "fan_in_fan_out",
)
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base as it was. Others (PiSSA, OLoRA, LoftQ, …) change its weights."""


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """An adapter read and checked. `parts`: what is added, by canonical name of the matrix.

    `sha256` is that of its two files; `base_sha256` the weights it says it was trained on, None for a
    folder that does not say. `rank`: the largest. `modules`: the kinds of matrices, such as attn_q.
    `chat_template`: of the format it was trained on, None where the folder holds none.
    """

    path: str
    sha256: str
    base_sha256: str | None
    parts: Mapping[str, LowRank]
    chat_template: str | None = None

    @property
    def name(self) -> str:
        """What its folder is called; of one in the Hugging Face cache, what its repository is called."""
        folder = Path(self.path).resolve()
        if folder.parent.name == "snapshots":
            return folder.parent.parent.name.split("--")[-1]
        return folder.name

    @property
    def rank(self) -> int:
        return max(part.a.rows for part in self.parts.values())

    @property
    def parameters(self) -> int:
        sizes = ((part.a.columns + part.b.rows) * part.a.rows for part in self.parts.values())
        return sum(sizes)

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.split(".")[-1] for name in self.parts))

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should be told."""
        if self.base_sha256 is not None:
            return ()
        return (f"adapter {self.path}: does not say which weights it was trained on; its shapes fit",)


@dataclass(frozen=True)
class _Lora:
    """What a configuration says of a module."""

    rank: int
    scale: float


def read_adapter(path: str | Path, config: ModelConfig, weights_sha256: str | None = None) -> AdapterFile:
    """Read a PEFT LoRA folder for a model of this configuration.

    weights_sha256: that of the base; an adapter whose manifest names another is refused. None leaves that
    unchecked. Raises ModelFileError naming the file, the field or tensor, and the problem.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        problem = "is missing: an adapter is a folder that peft's save_pretrained wrote"
        raise ModelFileError(folder, CONFIG, problem)
    if not (folder / WEIGHTS).exists():
        raise ModelFileError(folder, WEIGHTS, "is missing; other formats of weights are not read")
    base = _base_sha256(folder)
    if base is not None and weights_sha256 not in (None, base):
        raise ModelFileError(
            folder / MANIFEST,
            "base_weights_sha256",
            f"is {base[:16]}…, this model's weights are {str(weights_sha256)[:16]}…",
            hint="an adapter belongs to the weights it was trained on",
        )
    tensors, _ = read_safetensors(folder / WEIGHTS)
    matrices = _modules(folder, tensors, config)
    keys = Keys(str(folder / CONFIG), read_json(folder / CONFIG))
    try:
        loras = _loras(keys, matrices)
    except PatternError as error:
        raise ModelFileError(folder / CONFIG, "patterns", str(error)) from None
    pairs = _pairs(folder, tensors, matrices, loras, config)
    parts = {matrices[module]: _part(folder, pairs[module], lora) for module, lora in loras.items()}
    sha256 = content_sha256([folder / CONFIG, folder / WEIGHTS])
    return AdapterFile(str(folder), sha256, base, parts, _chat_template(folder))


def _chat_template(folder: Path) -> str | None:
    path = folder / CHAT_TEMPLATE
    if not path.is_file():
        return None
    data = map_file(path, at_least=0)
    if len(data) > MAX_TEMPLATE_BYTES:
        problem = f"has {len(data)} bytes, at most {MAX_TEMPLATE_BYTES} are read"
        raise ModelFileError(path, "template", problem)
    try:
        return data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(path, "template", f"is not UTF-8 at byte {error.start}") from None


def _base_sha256(folder: Path) -> str | None:
    if not (folder / MANIFEST).exists():
        return None
    keys = Keys(str(folder / MANIFEST), read_json(folder / MANIFEST))
    keys.expect("gemlet_adapter", MANIFEST_VERSION)
    keys.get("gemlet_adapter")
    sha256 = keys.text("base_weights_sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        keys.fail("base_weights_sha256", "must be 64 hexadecimal digits")
    keys.get("provenance", None)
    if unknown := keys.unknown():
        keys.fail(unknown[0], "is unknown")
    return sha256


# --- Which modules there are, and what the configuration says of them


def _modules(folder: Path, tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, str]:
    """Every matrix of the layers: its module's name, as the adapter writes it, and its canonical name."""
    rules = FAMILIES[config.family].tensor_rules(config.num_layers, config.tie_word_embeddings)
    shapes = config.tensor_shapes()
    names = {
        hf_name.removeprefix("model."): name
        for name, (hf_name, _) in rules.items()
        if name.startswith("blk.") and len(shapes[name]) == 2
    }
    found = [match["module"] for name in tensors if (match := _TENSOR.fullmatch(name))]
    for root in _ROOTS:
        modules = {root + name: canonical for name, canonical in names.items()}
        if any(module in modules for module in found):
            return modules
    what = f"none is of a layer of a {config.family}" if found else "none is of a LoRA"
    raise ModelFileError(folder / WEIGHTS, "tensors", what)


def _loras(keys: Keys, modules: Iterable[str]) -> dict[str, _Lora]:
    """The modules that the configuration names, with rank and scale. What is not computed is refused."""
    keys.expect("peft_type", "LORA")
    keys.get("peft_type")
    keys.expect("task_type", None, "CAUSAL_LM")
    keys.expect("bias", "none")
    keys.expect("init_lora_weights", *_STARTS)
    for switch in ("use_dora", "use_qalora", "lora_bias"):
        keys.expect(switch, False, None)
    for key in ("modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication"):
        keys.expect(key, None, [])
    keys.expect("layers_pattern", None, [], "", "layers", ["layers"])
    keys.expect("loftq_config", {}, None)
    for key in _HARMLESS:
        keys.get(key, None)
    rank, alpha = keys.integer("r", 8, most=MAX_RANK), keys.number("lora_alpha", 8, least=0)
    rooted = keys.flag("use_rslora", False)
    patterns = Patterns()
    ranks, alphas = _by_pattern(keys, "rank_pattern"), _by_pattern(keys, "alpha_pattern")
    loras = {}
    for module in _targets(keys, modules, patterns):
        own_rank = _of_module(patterns, ranks, module)
        own_alpha = _of_module(patterns, alphas, module)
        r = rank if own_rank is None else ranks.integer(own_rank, most=MAX_RANK)
        a = alpha if own_alpha is None else alphas.number(own_alpha, least=0)
        loras[module] = _Lora(r, a / (sqrt(r) if rooted else r))
    for key in keys.unknown():  # newer versions of PEFT add switches, which are off
        if keys.get(key) not in (None, False, [], {}):
            keys.fail(key, "is unknown, and something that changes results must not be ignored")
    if not loras:
        keys.fail("target_modules", "names no module of the model")
    return loras


def _by_pattern(keys: Keys, key: str) -> Keys:
    value = keys.get(key, None)
    if value is not None and not isinstance(value, dict):
        keys.fail(key, "must map patterns to numbers")
    return Keys(
        keys.path, {f"{key} {pattern}": number for pattern, number in (value or {}).items()}, f"{key} "
    )


def _of_module(patterns: Patterns, values: Keys, module: str) -> str | None:
    """The first pattern that fits the end of the module's name."""
    return next((pattern for pattern in values.names() if patterns.fits_end(pattern, module)), None)


def _targets(keys: Keys, modules: Iterable[str], patterns: Patterns) -> list[str]:
    """The modules that the configuration names, in the model's order, by PEFT's rules."""
    targets, excluded = _names(keys, "target_modules"), _names(keys, "exclude_modules")
    layers = keys.get("layers_to_transform", None)
    if isinstance(layers, int):
        layers = [layers]
    if layers is not None and not (isinstance(layers, list) and all(type(item) is int for item in layers)):
        keys.fail("layers_to_transform", "must be a layer's number or a list of them")
    if targets is None:
        keys.fail("target_modules", "is missing")
    if layers and isinstance(targets, str):
        keys.fail("layers_to_transform", "cannot be combined with a pattern as target_modules")
    for other in ("embed_tokens", "lm_head"):
        if isinstance(targets, list) and any(target.split(".")[-1] == other for target in targets):
            keys.fail(
                "target_modules", f"names {other}: adapters of the embedding and the head are not supported"
            )

    def is_target(module: str) -> bool:
        if excluded is not None and _is_named(excluded, module, patterns):
            return False
        if targets == "all-linear":
            return True
        if not _is_named(targets, module, patterns):
            return False
        return not layers or module in targets or int(module.split("layers.")[1].split(".")[0]) in layers

    return [module for module in modules if is_target(module)]


def _names(keys: Keys, key: str) -> list[str] | str | None:
    """A list of module names or ends of names, a pattern, or nothing."""
    value = keys.get(key, None)
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return value
    if value is not None and not isinstance(value, str):
        keys.fail(key, "must be a list of names, or a pattern")
    return value or None


def _is_named(names: list[str] | str, module: str, patterns: Patterns) -> bool:
    if isinstance(names, str):
        return patterns.fits(names, module)
    return any(module == name or module.endswith("." + name) for name in names)


# --- Their tensors


def _pairs(
    folder: Path,
    tensors: Mapping[str, Tensor],
    matrices: Mapping[str, str],
    loras: Mapping[str, _Lora],
    config: ModelConfig,
) -> dict[str, dict[str, Tensor]]:
    """A and B of every module; each is there, no other is, and their shapes are the model's."""
    shapes = config.tensor_shapes()
    pairs: dict[str, dict[str, Tensor]] = {module: {} for module in loras}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match["module"] not in matrices:
            raise ModelFileError(folder / WEIGHTS, f"tensor {name!r}", _why_not(name))
        module, side = match["module"], match["side"]
        if module not in loras:
            raise ModelFileError(folder / WEIGHTS, f"tensor {name!r}", "is of a module that is not targeted")
        if side in pairs[module]:
            raise ModelFileError(folder / WEIGHTS, f"tensor {name!r}", "is there twice")
        rows, columns = shapes[matrices[module]]
        rank = loras[module].rank
        expected = (rank, columns) if side == "A" else (rows, rank)
        if tensor.shape != expected:
            problem = (
                f"has the shape {list(tensor.shape)}, where rank {rank} and the model need {list(expected)}"
            )
            raise ModelFileError(folder / WEIGHTS, f"tensor {name!r}", problem)
        pairs[module][side] = tensor
    for module, pair in pairs.items():
        for side in "AB":
            if side not in pair:
                name = f"{module}.lora_{side}.weight"
                raise ModelFileError(folder / WEIGHTS, f"tensor {name!r}", "is missing")
    return pairs


def _why_not(name: str) -> str:
    reasons = {
        "lora_magnitude_vector": "belongs to DoRA, which is not supported",
        "lora_embedding_": "adapts the embedding, which is not supported",
        "modules_to_save": "replaces a module, which is not supported",
        "embed_tokens": "replaces or adapts the embedding, which is not supported",
        "lm_head": "replaces or adapts the head, which is not supported",
        "lora_bias": "is a bias, which is not supported",
    }
    return next((why for part, why in reasons.items() if part in name), "is of no module of the model")


def _part(folder: Path, pair: Mapping[str, Tensor], lora: _Lora) -> LowRank:
    packed = {}
    for side, tensor in pair.items():
        try:
            packed[side] = pack(tensor)
        except FloatingPointError as error:
            raise ModelFileError(folder / WEIGHTS, f"tensor {tensor.name!r}", str(error)) from None
    return LowRank(packed["A"], packed["B"], lora.scale)


def describe(adapter: AdapterFile) -> dict[str, Any]:
    """What is known about an adapter, as a JSON-ready dictionary."""
    return {
        "path": adapter.path,
        "sha256": adapter.sha256,
        "base_weights_sha256": adapter.base_sha256,
        "rank": adapter.rank,
        "modules": list(adapter.modules),
        "parameters": adapter.parameters,
        "bytes": sum(part.nbytes for part in adapter.parts.values()),
    }
