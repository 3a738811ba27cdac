"""An adapter as a file of its own: a GGUF adapter for llama.cpp, or the PEFT folder as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.gguf_values import F32, STRING, Metadata, Value
from gemlet.convert.gguf_writer import Check, row_order, write_tensors
from gemlet.convert.merge import folded
from gemlet.convert.staging import staged
from gemlet.convert.tensors import OutputTensor, Progress, Rows, encoded
from gemlet.convert.verify import ExportFaultError
from gemlet.formats.dequantize import dequantize
from gemlet.formats.gguf import read_gguf
from gemlet.model.adapters import CONFIG, MANIFEST, WEIGHTS, AdapterFile, read_adapter
from gemlet.model.families import FAMILIES
from gemlet.model.sources import Source


def write_adapter_gguf(
    path: Path,
    source: Source,
    adapter: AdapterFile,
    *,
    force: bool = False,
    progress: Progress | None = None,
    also: Check = lambda stage: None,
) -> int:
    """Write the adapter for llama.cpp's `--lora`; returns its bytes. also: looks at it before it is named.

    Matrices are float32, their rows as the family's GGUF files order them. llama.cpp multiplies by alpha over
    a module's rank, or by one where alpha is 0: the scale is a part of `lora_b`, so that modules may have
    different ones.
    """
    family = FAMILIES[source.config.family]
    metadata: Metadata = {
        "general.architecture": Value(STRING, family.name),
        "general.type": Value(STRING, "adapter"),
        "adapter.type": Value(STRING, "lora"),
        "adapter.lora.alpha": Value(F32, 0.0),
        "general.name": Value(STRING, adapter.name),
    }
    if licence := source.facts.licence or family.licence:
        metadata["general.license"] = Value(STRING, licence)
    tensors: dict[str, OutputTensor] = {}
    meant: dict[str, NDArray[np.float32]] = {}
    for name, part in adapter.parts.items():
        order = row_order(source.config, name)
        for side, values in folded(part).items():
            if side == "b" and order is not None:
                values = values[order]
            meant[f"{name}.weight.lora_{side}"] = values
            tensors[f"{name}.weight.lora_{side}"] = encoded("F32", values.shape, _rows(values))

    def check(stage: Path) -> None:
        found = read_gguf(stage).tensors
        for name, values in meant.items():
            if not np.array_equal(dequantize(found[name]), values):
                raise ExportFaultError(f"{name} is not what was meant")
        also(stage)

    return write_tensors(path, metadata, tensors, adapter.path, force=force, progress=progress, check=check)


def _rows(values: NDArray[np.float32]) -> Rows:
    return lambda start, stop: values[start:stop]


def copy_adapter(path: Path, source: Source, adapter: AdapterFile, *, force: bool = False) -> int:
    """Copy the PEFT folder; returns its bytes. It is read again before it gets its name."""
    names = [name for name in (CONFIG, WEIGHTS, MANIFEST) if (Path(adapter.path) / name).exists()]
    needed = sum((Path(adapter.path) / name).stat().st_size for name in names)
    with staged(path, needed, force=force) as stage:
        stage.mkdir()
        for name in names:
            shutil.copyfile(Path(adapter.path) / name, stage / name)
        if read_adapter(stage, source.config).sha256 != adapter.sha256:
            raise ExportFaultError("the copy of the adapter is not the same")
    return needed
