"""Weights ready to compute with: packed once, kept in the cache folder, and mapped at every later start."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError, ModelFileError
from gemlet.formats.dequantize import dequantize
from gemlet.formats.files import replaced_file
from gemlet.formats.safetensors import Layout, Writer, read_arrays
from gemlet.formats.tensors import KINDS, Tensor
from gemlet.model.description import Description, SourceFacts
from gemlet.model.fingerprint import content_sha256, fingerprint
from gemlet.model.sources import Source, describe, files_of, open_source, weight_files_of
from gemlet.ops.packed import ComputeType, Packed, layout, pack_slices, packed_format
from gemlet.types import Vocabulary

WeightsType = Literal["auto", "stored", "bf16", "int8", "int4"]
Progress = Callable[[int, int], None]
Write = Callable[[str, NDArray[Any], int], None]

VERSION = "1"
"""Of the packed file; raised when the layout or the metadata change."""

_VOCABULARY = "vocabulary."
_VOCABULARY_ARRAYS = [field.name for field in fields(Vocabulary)]


@dataclass(frozen=True, eq=False)
class Weights:
    """Matrices in the kernels' layout and norm vectors (float32, ready to multiply), by canonical name.

    `sha256` is that of the source's weight files; `weights_type` says what the matrices are stored as.
    """

    packed: Mapping[str, Packed]
    vectors: Mapping[str, NDArray[np.float32]]
    sha256: str
    weights_type: str

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.packed.values())


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model's facts and weights, and lines a person should see (losses of a conversion, cache trouble)."""

    facts: SourceFacts
    weights: Weights
    notes: tuple[str, ...]


def load(
    path: str | Path, weights: str = "auto", *, cache_dir: Path | None, progress: Progress | None = None
) -> Loaded:
    """Facts and weights of a GGUF file or Hugging Face folder, from the cache where they are already packed.

    weights: "auto" (as stored; a bf16 checkpoint as int8), "stored", "bf16", "int8" or "int4" (its embedding
    int8); matrices that are no wider than that already are kept as stored. cache_dir: gemlet's cache folder;
    None packs in memory. progress: called with bytes done and bytes in all while packing.
    Raises ModelFileError, ModelNotFoundError, or InvalidRequestError for an unknown type.
    """
    wanted = _checked(weights)
    if (loaded := _cached(path, wanted, cache_dir)) is not None:
        return loaded
    return _load_source(open_source(path), wanted, cache_dir, progress)


def load_weights(
    source: Source, weights: str = "auto", *, cache_dir: Path | None, progress: Progress | None = None
) -> Weights:
    """Weights of an opened source; as `load` does it."""
    wanted = _checked(weights)
    loaded = _cached(source.facts.path, wanted, cache_dir)
    return (loaded or _load_source(source, wanted, cache_dir, progress)).weights


def packed_path(path: str | Path, weights: str, cache_dir: Path) -> Path:
    """Where the packed form of a model is kept."""
    resolved = Path(path).resolve()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", resolved.stem)[:80]
    digest = hashlib.sha256(str(resolved).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir / "packed" / f"{name}-{weights}-{digest}.safetensors"


def outline(
    kinds: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], weights: str = "auto"
) -> Weights:
    """Weights as `load` would give them, in types and sizes only: their arrays take no memory and hold zeros.

    kinds: how each matrix is stored, such as Q4_0; shapes: of every tensor. Raises as `load` does.
    """
    types = compute_types(kinds, _checked(weights))
    packed, vectors = {}, {}
    for name, shape in shapes.items():
        if name not in kinds:
            vectors[name] = np.broadcast_to(np.float32(0), shape)
            continue
        rows, columns = shape
        format = packed_format(kinds[name], columns, types[name])
        arrays = {
            part: np.broadcast_to(np.zeros((), dtype), sizes)
            for part, (dtype, sizes) in layout(format, rows, columns).items()
        }
        packed[name] = Packed(format, rows, columns, arrays)
    return Weights(packed, vectors, "", "+".join(sorted(set(kinds.values()))))


def _checked(weights: str) -> WeightsType:
    if weights not in get_args(WeightsType):
        raise InvalidRequestError(f"weights: {weights!r} is not one of {', '.join(get_args(WeightsType))}")
    return cast(WeightsType, weights)


def _load_source(
    source: Source, weights: WeightsType, cache_dir: Path | None, progress: Progress | None
) -> Loaded:
    if cache_dir is None:
        return _pack_in_memory(source, weights, progress, ())
    target = packed_path(source.facts.path, weights, cache_dir)
    try:
        _fill_cache(target, source, weights, progress)
    except OSError as error:
        trouble = f"the packed weights cannot be kept in {target.parent}: {error.strerror or error}"
        return _pack_in_memory(source, weights, progress, (trouble,))
    loaded = _cached(source.facts.path, weights, cache_dir)
    if loaded is None:
        return _pack_in_memory(source, weights, progress, (f"{target} cannot be read back",))
    return loaded


# --- What each matrix becomes


def compute_types(kinds: Mapping[str, str], weights: WeightsType) -> dict[str, ComputeType]:
    """The compute type of every matrix, by how each is stored."""
    if weights == "auto":
        is_bf16 = "BF16" in kinds.values() and all(KINDS[kind].is_float for kind in kinds.values())
        return dict.fromkeys(kinds, "int8" if is_bf16 else "stored")
    if weights == "int4":
        return {name: "int4" if name.startswith("blk.") else "int8" for name in kinds}
    return dict.fromkeys(kinds, weights)


def _compute_types(source: Source, weights: WeightsType) -> dict[str, ComputeType]:
    return compute_types(matrix_kinds(source), weights)


def matrix_kinds(source: Source) -> dict[str, str]:
    """How each matrix of a model is stored, such as Q4_0."""
    return {name: tensor.kind for name, tensor in source.tensors.items() if len(tensor.shape) == 2}


def _weights_type(source: Source, weights: WeightsType) -> str:
    """Kinds that are kept, largest first, then conversions: `Q4_0+Q8_0`, or `BF16 as int8`."""
    sizes: dict[str, int] = {}
    for name, compute_type in _compute_types(source, weights).items():
        tensor = source.tensors[name]
        converted = packed_format(tensor.kind, tensor.columns, compute_type) != packed_format(
            tensor.kind, tensor.columns, "stored"
        )
        kind = f"{tensor.kind} as {compute_type}" if converted else tensor.kind
        sizes[kind] = sizes.get(kind, 0) + len(tensor.data)
    return "+".join(sorted(sizes, key=lambda kind: -sizes[kind]))


def _layouts(source: Source, types: Mapping[str, ComputeType]) -> dict[str, Layout]:
    """Every array of the packed file: matrices, vectors, vocabulary."""
    arrays: dict[str, Layout] = {}
    for name, tensor in source.tensors.items():
        if name in types:
            rows, columns = tensor.shape
            format = packed_format(tensor.kind, columns, types[name])
            arrays |= {f"{name}.{part}": spec for part, spec in layout(format, rows, columns).items()}
        else:
            arrays[name] = np.dtype("<f4"), tensor.shape
    for name, array in _vocabulary_arrays(source.description.vocabulary).items():
        arrays[name] = array.dtype, array.shape
    return arrays


def _vocabulary_arrays(vocabulary: Vocabulary | None) -> dict[str, NDArray[Any]]:
    if vocabulary is None:
        return {}
    arrays = {_VOCABULARY + name: getattr(vocabulary, name) for name in _VOCABULARY_ARRAYS}
    return {name: array for name, array in arrays.items() if array is not None}


# --- Packing


def _pack(
    source: Source, types: Mapping[str, ComputeType], write: Write, progress: Progress | None
) -> list[str]:
    """Pack every tensor, handing parts of arrays to `write`; returns what the conversion lost, as lines."""
    total = sum(len(tensor.data) for tensor in source.tensors.values())
    done, error, square = 0, 0.0, 0.0
    for name, tensor in source.tensors.items():
        if name not in types:
            write(name, _vector(source, tensor), 0)
            done += len(tensor.data)
            continue
        try:
            for part in pack_slices(tensor, types[name]):
                for array_name, array in part.arrays.items():
                    write(f"{name}.{array_name}", array, part.panel)
                error += part.square_error
                square += part.square_sum
                done += part.rows * tensor.row_bytes
                if progress is not None:
                    progress(done, total)
        except FloatingPointError as problem:
            raise ModelFileError(source.facts.path, f"tensor {tensor.name!r}", str(problem)) from problem
    if not square or not isfinite(square):
        return []
    loss = 100 * sqrt(error / square)
    return [f"converted weights differ from the file's by {loss:.2g} % (root mean square, relative)"]


def _vector(source: Source, tensor: Tensor) -> NDArray[np.float32]:
    values = dequantize(tensor)
    if not np.isfinite(values).all():
        raise ModelFileError(source.facts.path, f"tensor {tensor.name!r}", "values hold NaN or infinity")
    values += np.float32(source.norm_offset)
    return values


def _pack_in_memory(
    source: Source, weights: WeightsType, progress: Progress | None, notes: tuple[str, ...]
) -> Loaded:
    types = _compute_types(source, weights)
    arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in _layouts(source, types).items()}

    def write(name: str, array: NDArray[Any], first: int) -> None:
        arrays[name][first : first + len(array)] = array

    losses, sha256 = _pack_and_hash(source, types, write, progress)
    matrices = _matrices(source, types)
    content = Weights(*_split(arrays, matrices), sha256, _weights_type(source, weights))
    return Loaded(source.facts, content, (*notes, *losses))


def _pack_and_hash(
    source: Source, types: Mapping[str, ComputeType], write: Write, progress: Progress | None
) -> tuple[list[str], str]:
    """Pack while another thread takes the hash of the source."""
    files = files_of(source.facts.path)
    before = fingerprint(files)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(content_sha256, weight_files_of(source.facts.path))
        losses = _pack(source, types, write, progress)
        sha256 = digest.result()
    if fingerprint(files) != before:
        raise ModelFileError(source.facts.path, "file", "changed while it was read")
    return losses, sha256


def _matrices(source: Source, types: Mapping[str, ComputeType]) -> dict[str, tuple[str, int, int]]:
    """Format, rows and columns of every matrix."""
    result: dict[str, tuple[str, int, int]] = {}
    for name, compute_type in types.items():
        tensor = source.tensors[name]
        rows, columns = tensor.shape
        result[name] = packed_format(tensor.kind, columns, compute_type), rows, columns
    return result


def _split(
    arrays: Mapping[str, NDArray[Any]], matrices: Mapping[str, Any]
) -> tuple[dict[str, Packed], dict[str, NDArray[np.float32]]]:
    """Arrays by name to matrices and vectors. Raises KeyError or ValueError where they do not fit."""
    packed, used = {}, set()
    for name, (format, rows, columns) in matrices.items():
        parts = {}
        for part, (dtype, shape) in layout(format, rows, columns).items():
            array = arrays[f"{name}.{part}"]
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name}.{part}")
            parts[part] = array
            used.add(f"{name}.{part}")
        packed[name] = Packed(format, rows, columns, parts)
    rest = [name for name in arrays if name not in used and not name.startswith(_VOCABULARY)]
    return packed, {name: arrays[name] for name in rest}


# --- The packed file


def _fill_cache(target: Path, source: Source, weights: WeightsType, progress: Progress | None) -> None:
    types = _compute_types(source, weights)
    metadata = {
        "gemlet_packed": VERSION,
        "source": source.facts.path,
        "fingerprint": fingerprint(files_of(source.facts.path)),
        "weights": weights,
        "weights_type": _weights_type(source, weights),
        "matrices": json.dumps(_matrices(source, types)),
        "description": json.dumps(source.description.values),
        "sha256": "0" * 64,
        "notes": " " * 200,
    }
    with replaced_file(target) as file:
        writer = Writer(file, _layouts(source, types), metadata)
        for name, array in _vocabulary_arrays(source.description.vocabulary).items():
            writer.write(name, array)
        losses, metadata["sha256"] = _pack_and_hash(source, types, writer.write, progress)
        metadata["notes"] = json.dumps(losses)
        writer.finish(metadata)


def _cached(path: str | Path, weights: WeightsType, cache_dir: Path | None) -> Loaded | None:
    """What the cache holds for a model; None if there is nothing, or nothing that fits the model's files."""
    if cache_dir is None or not (target := packed_path(path, weights, cache_dir)).exists():
        return None
    try:
        arrays, metadata = read_arrays(target)
        if metadata["gemlet_packed"] != VERSION or metadata["weights"] != weights:
            return None
        if metadata["fingerprint"] != fingerprint(files_of(path)):
            return None
        pieces = {n: arrays[_VOCABULARY + n] for n in _VOCABULARY_ARRAYS if _VOCABULARY + n in arrays}
        values = json.loads(metadata["description"])
        description = Description(values, Vocabulary(**pieces) if pieces else None)
        matrices, vectors = _split(arrays, json.loads(metadata["matrices"]))
        notes = tuple(json.loads(metadata["notes"]))
        content = Weights(matrices, vectors, metadata["sha256"], metadata["weights_type"])
        facts = describe(path, description)
    except (ModelFileError, KeyError, ValueError, TypeError):
        return None
    return Loaded(facts, content, notes) if _fits(facts, content) else None


def _fits(facts: SourceFacts, weights: Weights) -> bool:
    """Whether the tensors are exactly those of the configuration."""
    shapes: dict[str, tuple[int, ...]] = {n: (m.rows, m.columns) for n, m in weights.packed.items()}
    shapes |= {name: vector.shape for name, vector in weights.vectors.items()}
    floats = all(vector.dtype == np.float32 for vector in weights.vectors.values())
    return floats and shapes == facts.config.tensor_shapes()
