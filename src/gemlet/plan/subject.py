"""What is planned for: a model's shape and the types of its matrices, from a header or known by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gemlet.errors import InvalidRequestError, ModelFileError, ModelNotFoundError
from gemlet.formats.files import read_json
from gemlet.model.config import LayerType, ModelConfig
from gemlet.model.families import FAMILIES
from gemlet.model.folder_source import TOKENIZERS, describe
from gemlet.model.head import head_of
from gemlet.model.sources import open_source
from gemlet.model.weights import Weights, matrix_kinds, outline
from gemlet.ops.packed import Packed

KindRule = tuple[str, str]
"""How the layers' matrices and the embedding are stored."""


@dataclass(frozen=True)
class Matrices:
    """Some matrices taken together: bytes, and numbers of weights by the format they are computed in."""

    bytes: int
    values_by_format: Mapping[str, int]

    @classmethod
    def of(cls, matrices: Iterable[Packed]) -> Matrices:
        size, values = 0, dict[str, int]()
        for matrix in matrices:
            size += matrix.nbytes
            values[matrix.format] = values.get(matrix.format, 0) + matrix.rows * matrix.columns
        return cls(size, values)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as far as a forecast needs it. `weights`: types and sizes only, see `outline`.

    `stored`: how the matrices of the file, or of the published one, are stored.
    """

    name: str
    config: ModelConfig
    weights: Weights
    stored: Mapping[str, str]
    path: Path | None = None

    def with_weights(self, weights: str) -> Subject:
        """The same model loaded as another type."""
        shapes = self.config.tensor_shapes()
        return Subject(self.name, self.config, outline(self.stored, shapes, weights), self.stored, self.path)

    @cached_property
    def layers(self) -> Matrices:
        """Those that every row is multiplied with."""
        packed = self.weights.packed
        return Matrices.of(matrix for name, matrix in packed.items() if name.startswith("blk."))

    @cached_property
    def head(self) -> Matrices:
        """The one that rows are multiplied with whose logits are wanted."""
        return Matrices.of([head_of(self.weights)])

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of the matrices by the type that they are computed in, the largest first."""
        sizes: dict[str, int] = {}
        for matrix in self.weights.packed.values():
            kind = _TYPES[matrix.format]
            sizes[kind] = sizes.get(kind, 0) + matrix.nbytes
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))


_TYPES = {
    "i4": "int4",
    "i4m": "int4 with minimum",
    "i8": "int8",
    "i8m": "int8 with minimum",
    "i8h": "int8 in halves",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bf16",
}


@dataclass(frozen=True)
class _Shape:
    hidden_size: int
    intermediate_size: int
    layers: int
    context_length: int


# Of the published configurations; everything else is the family's.
_1B = _Shape(1152, 6912, 26, 32768)
_270M = _Shape(640, 2048, 18, 32768)
_BF16: KindRule = ("BF16", "BF16")
KNOWN: dict[str, tuple[_Shape, KindRule]] = {
    "gemma-3-1b-it": (_1B, _BF16),
    "gemma-3-1b-pt": (_1B, _BF16),
    "gemma-3-1b-it-qat": (_1B, ("Q4_0", "F16")),
    "gemma-3-270m-it": (_270M, _BF16),
    "gemma-3-270m": (_270M, _BF16),
}
"""Models whose shape is known without their files, and how their published files are stored."""


def from_file(path: Path, weights: str = "auto") -> Subject:
    """A GGUF file or a Hugging Face folder, of which only the header is read. Raises as `open_source`."""
    source = open_source(path)
    kinds = matrix_kinds(source)
    shapes = source.config.tensor_shapes()
    return Subject(path.name, source.config, outline(kinds, shapes, weights), kinds, path)


def from_name(name: str, weights: str = "auto") -> Subject:
    """A model of `KNOWN`, whether it is on this machine or not."""
    if name not in KNOWN:
        raise InvalidRequestError(f"the shape of {name!r} is not known", hint=f"known: {', '.join(KNOWN)}")
    shape, (layers, table) = KNOWN[name]
    config = gemma3(shape.hidden_size, shape.intermediate_size, shape.layers, shape.context_length)
    shapes = config.tensor_shapes()
    kinds = {
        tensor: layers if tensor.startswith("blk.") else table
        for tensor, sizes in shapes.items()
        if len(sizes) == 2
    }
    return Subject(name, config, outline(kinds, shapes, weights), kinds)


def gemma3(hidden: int, intermediate: int, layers: int, context: int) -> ModelConfig:
    """A Gemma 3 text model: four query heads, one of keys and values, every sixth layer global."""
    family = FAMILIES["gemma3"]
    kinds: list[LayerType] = [
        "local" if (layer + 1) % family.layer_pattern else "global" for layer in range(layers)
    ]
    return ModelConfig(
        family=family.name,
        vocab_size=family.vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        layer_types=tuple(kinds),
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=family.head_dim,
        context_length=context,
        sliding_window=512,
        rope_theta=family.rope_theta,
        rope_local_theta=family.rope_local_theta,
        rms_norm_eps=family.rms_norm_eps,
        attention_scale=family.query_pre_attn_scalar**-0.5,
        embedding_scale=hidden**0.5,
        tie_word_embeddings=True,
        bos_id=family.bos_id,
        stop_ids=family.base_stop_ids,
        pad_id=family.pad_id,
    )


_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def from_config(path: Path, weights: str = "auto") -> Subject:
    """The shape that a config.json states, without weights. ModelFileError, or ModelNotFoundError."""
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: there is no such file")
    content = read_json(path)
    values = {
        "format": "huggingface",
        "config": content,
        "generation": {},
        "chat_template": None,
        "tokenizer": (next(iter(TOKENIZERS)), ""),
        "licence": None,
    }
    config = describe(path.parent, values).config
    dtype = content.get("torch_dtype", content.get("dtype", "bfloat16"))
    if dtype not in _DTYPES:
        raise ModelFileError(path, "torch_dtype", f"is {dtype!r}, not one of {', '.join(_DTYPES)}")
    shapes = config.tensor_shapes()
    kinds = {name: _DTYPES[dtype] for name, sizes in shapes.items() if len(sizes) == 2}
    return Subject(str(path), config, outline(kinds, shapes, weights), kinds)
