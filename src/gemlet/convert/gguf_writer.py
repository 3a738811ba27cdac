"""A GGUF file from an opened model: what is not changed is copied byte for byte, what is, is encoded anew."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.gguf_metadata import metadata_of
from gemlet.convert.gguf_values import Metadata, Value
from gemlet.convert.staging import staged
from gemlet.convert.tensors import (
    OutputTensor,
    Progress,
    counter,
    differences,
    encoded,
    kept,
    total_bytes,
    values_of,
    write_data,
)
from gemlet.errors import MissingExtraError, OutputError
from gemlet.formats.gguf import read_gguf
from gemlet.formats.tensors import KINDS, Tensor
from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES, file_name
from gemlet.model.llama_config import ROPE_FREQS
from gemlet.model.sources import Source

_ALIGNMENT = 32
_HEAD_BYTES = 1 << 14
"""More than what a head holds beside its strings and tensor names."""


@dataclass(frozen=True)
class Written:
    """What was written: its bytes, the kind of each tensor, and a line for each thing put right."""

    path: str
    nbytes: int
    kinds: Mapping[str, str]
    corrections: tuple[str, ...] = field(default=())


Check = Callable[[Path], None]
"""Looks at the finished file, before it gets its name, and raises where it is not what was meant."""


def write_gguf(
    path: str | Path,
    source: Source,
    tensors: Mapping[str, OutputTensor] | None = None,
    *,
    metadata: Mapping[str, Value] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    check: Check | None = None,
) -> Written:
    """Write a model as a GGUF file.

    tensors: those that are changed, by canonical name; the others are copied as they are stored, norms of a
    folder with the 1 that the format wants added. metadata: keys besides those of the source, or in place
    of them. force: replace a file that is there. progress: called with the bytes written and in all.

    The file appears under its name whole, on disk and read again, or not at all.
    Raises MissingExtraError without the gguf package, OutputError where the file cannot be written,
    ModelFileError for values that a kind cannot hold.
    """
    path = Path(path)
    changed = dict(tensors or {})
    if unknown := changed.keys() - source.tensors.keys():
        raise ValueError(f"{min(unknown)} is not part of the model")
    ordered = {name: _as_the_file_orders(source, name, tensor) for name, tensor in changed.items()}
    outputs = gguf_tensors(source) | {file_name(name): tensor for name, tensor in ordered.items()}
    kinds = {name.removesuffix(".weight"): tensor.kind for name, tensor in outputs.items()}
    keys, lines = metadata_of(source, kinds, bool(tensors))
    keys |= metadata or {}
    refuse_source(path, source)
    where = source.facts.path
    nbytes = write_tensors(path, keys, outputs, where, force=force, progress=progress, check=check)
    return Written(str(path), nbytes, kinds, tuple(lines))


def write_tensors(
    path: Path,
    metadata: Metadata,
    tensors: Mapping[str, OutputTensor],
    where: str,
    *,
    force: bool = False,
    progress: Progress | None = None,
    check: Check | None = None,
) -> int:
    """Write a GGUF file of these keys and tensors, by the names they have in it; returns its bytes.

    where: what the tensors come from, for messages. Otherwise as `write_gguf`.
    """
    package = gguf_package()
    needed = sum(tensor.nbytes + _ALIGNMENT for tensor in tensors.values()) + _head_bytes(metadata)
    with staged(path, needed, force=force) as stage:
        _write_head(package, stage, metadata, tensors)
        with stage.open("ab") as file:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            step = counter(total_bytes(tensors), progress)
            digests = write_data(file, tensors, where, step, _ALIGNMENT)
        if different := differences(read_gguf(stage).tensors, tensors, digests):
            hint = "the disk or the memory of this machine may be faulty"
            raise OutputError(
                f"{path}: tensor {different[0]!r} read again is not what was written", hint=hint
            )
        if check is not None:
            check(stage)
        return stage.stat().st_size


def gguf_tensors(source: Source) -> dict[str, OutputTensor]:
    """Every tensor by its name in a GGUF file.

    Those of such a file are as they are in it, what is no weight included. Those of a folder are as they are
    stored, vectors apart: they are float32, norms ready to multiply.
    """
    if source.facts.format == "gguf":
        return {name: kept(tensor) for name, tensor in read_gguf(source.facts.path).tensors.items()}
    outputs = {
        file_name(name): _as_the_file_orders(source, name, _as_is(tensor, source.norm_offset))
        for name, tensor in source.tensors.items()
    }
    if source.config.rope_divisors:
        divisors = np.array([source.config.rope_divisors], np.float32)
        outputs[f"{ROPE_FREQS}.weight"] = encoded(
            "F32", divisors.shape[1:], lambda start, stop: divisors[start:stop]
        )
    return outputs


def row_order(config: ModelConfig, name: str) -> NDArray[np.intp] | None:
    """Which row of a matrix comes where in the family's GGUF files; None where they have the usual order.

    The queries and keys of some are in the order of a rotation that pairs neighbours.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    count = heads.get(name.split(".")[-1])
    if count is None or not FAMILIES[config.family].gguf_neighbouring_rope:
        return None
    rows = np.arange(count * config.head_dim, dtype=np.intp)
    order: NDArray[np.intp] = rows.reshape(count, 2, -1).swapaxes(1, 2).reshape(-1)
    return order


def _as_the_file_orders(source: Source, name: str, tensor: OutputTensor) -> OutputTensor:
    order = row_order(source.config, name)
    if order is None:
        return tensor

    def slices() -> Iterator[NDArray[np.uint8]]:
        data = np.concatenate([np.ascontiguousarray(part).reshape(-1) for part in tensor.slices()])
        yield data.reshape(len(order), -1)[order]

    return OutputTensor(tensor.kind, tensor.shape, slices)


def refuse_source(path: Path, source: Source) -> None:
    """Raise OutputError where writing would replace what is read."""
    target, origin = path.resolve(), Path(source.facts.path).resolve()
    if target == origin or target in origin.parents or origin in target.parents:
        raise OutputError(f"{path}: is where the model is read from", hint="choose another -o")


def _as_is(tensor: Tensor, norm_offset: float) -> OutputTensor:
    if len(tensor.shape) > 1:
        return kept(tensor)
    values, offset = values_of(tensor), np.float32(norm_offset)
    return encoded("F32", tensor.shape, lambda start, stop: values(start, stop) + offset)


def gguf_package() -> Any:
    """The library that writes GGUF files. MissingExtraError; asked for before long work begins."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise MissingExtraError("writing GGUF files", "convert") from None


def _head_bytes(metadata: Mapping[str, Value]) -> int:
    """About as many bytes as the keys take."""
    values = [value.value for value in metadata.values()]
    lists = [value for value in values if isinstance(value, list)]
    strings = [item for value in lists for item in value if isinstance(item, bytes | str)]
    size = sum(len(value) for value in values if isinstance(value, str))
    return size + sum(8 * len(value) for value in lists) + sum(map(len, strings)) + _HEAD_BYTES


def _write_head(package: Any, path: Path, metadata: Metadata, tensors: Mapping[str, OutputTensor]) -> None:
    """Everything before the data: counts, keys, the table of tensors."""
    types = package.GGUFValueType
    writer = package.GGUFWriter(path, metadata["general.architecture"].value)
    try:
        for key, value in metadata.items():
            if key != "general.architecture":  # the writer has put it there
                item = None if value.item is None else types(value.item)
                writer.add_key_value(key, value.value, types(value.type), item)
        for name, tensor in tensors.items():
            number = package.GGMLQuantizationType(KINDS[tensor.kind].gguf_id)
            dtype = np.dtype(np.float32)  # `raw_dtype` says what it is; bytes would have another shape
            writer.add_tensor_info(name, tensor.shape, dtype, tensor.nbytes, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
