"""`export`: a model in another format or type, checked before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.adapter_files import copy_adapter, write_adapter_gguf
from gemlet.convert.folder_writer import folder_kind, write_folder
from gemlet.convert.gguf_writer import Written, gguf_package, write_gguf
from gemlet.convert.logits import (
    TEXT,
    Computed,
    LogitCheck,
    adapter_limit,
    compare,
    expected_logits,
    has_llama_cpp,
    limit_of,
    llama_cpp_logits,
    mean_divergence,
)
from gemlet.convert.merge import merged_values
from gemlet.convert.staging import check_target
from gemlet.convert.tensors import OutputTensor, Progress, Rows, encoded, values_of
from gemlet.convert.terms import Origin, licence_card, terms_files, write_beside
from gemlet.convert.verify import TensorError, verify
from gemlet.errors import InvalidRequestError
from gemlet.formats.encode import BLOCK_KINDS, ENCODED_KINDS, FLOAT_KINDS
from gemlet.formats.tensors import KINDS
from gemlet.model.adapters import AdapterFile, read_adapter
from gemlet.model.families import FAMILIES
from gemlet.model.fingerprint import content_sha256
from gemlet.model.folder_source import CONFIG
from gemlet.model.sources import Source, weight_files_of
from gemlet.provenance.manifest import Input, derive, write_manifest

Format = Literal["gguf", "transformers"]
FORMATS: tuple[Format, ...] = ("gguf", "transformers")
TYPES = tuple(kind.lower() for kind in ENCODED_KINDS)

TransformersLogits = Callable[[Path, str], tuple[Sequence[int], NDArray[np.float32], Sequence[int]]]
"""Computes a text from a folder: token ids, logits, and the ids that end an answer."""

_HEADS = ("token_embd", "output")
_BLOCK = 32
_WITH_MINIMUM = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
"""Kinds whose values lie above a minimum, so that no usual scale of Q8_0 meets them."""


@dataclass(frozen=True)
class Order:
    """What to write. `type` is one of TYPES, None for what is stored, where that is possible.

    apart: an adapter becomes a file of its own. check: compare values, and logits where a program that reads
    the format is installed. transformers: computes logits of a folder, None where it is not installed.
    """

    output: Path
    format: Format
    type: str | None = None
    apart: bool = False
    check: bool = True
    force: bool = False
    transformers: TransformersLogits | None = None


@dataclass(frozen=True)
class Exported:
    """What was written. `kinds`: tensors of each kind. `copied`: tensors that are as they were stored.

    `errors`: of the others, and `loss` of them together; empty and None where nothing was checked. `logits`:
    None where no program was there that computes them; `adapter_logits`: of an adapter that is a file of its
    own, beside the model. `files`: all that was written, the model first.
    """

    path: str
    format: Format
    nbytes: int
    kinds: Mapping[str, int]
    copied: int
    errors: tuple[TensorError, ...]
    loss: float | None
    logits: LogitCheck | None
    checked: bool
    corrections: tuple[str, ...]
    warnings: tuple[str, ...]
    files: tuple[str, ...]
    adapter_logits: LogitCheck | None = None


def export(
    source: Source,
    reference: str,
    order: Order,
    *,
    adapter: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write a model as `order` has it. `say` is told what takes a while beside the writing.

    Raises InvalidRequestError for a type that the format has not, OutputError where it cannot be written,
    ModelFileError for an adapter that is not the model's and values that a type cannot hold,
    MissingExtraError for GGUF without its package, ExportFaultError where the check fails.
    """
    kind = _kind(order)
    if order.format == "gguf":
        gguf_package()
    check_target(order.output, 0, force=order.force)
    second = _adapter_target(order)
    if adapter is not None and order.apart:
        check_target(second, 0, force=order.force)
    say("taking the hash of the weights")
    sha256 = content_sha256(weight_files_of(source.facts.path))
    low_rank = None if adapter is None else read_adapter(adapter, source.config, sha256)
    origin = Origin(_shareable(reference, source), sha256)
    if low_rank is not None:
        origin = replace(origin, adapter=low_rank.name, adapter_sha256=low_rank.sha256)
    merged = low_rank if not order.apart else None
    job = _Job(source, order, kind, merged, origin, say)
    result = job.gguf(progress) if order.format == "gguf" else job.folder(progress)
    if low_rank is not None and order.apart:
        alone = None if result.logits is None else result.logits.mean_kl
        logits = job.adapter_apart(second, low_rank, alone)
        result = replace(result, files=(*result.files, str(second)), adapter_logits=logits)
    return result


def _shareable(reference: str, source: Source) -> str:
    """What to call the model in files that others read: of a path, which is private, the last part."""
    base = reference.partition("+")[0]
    is_path = Path(base).expanduser().exists() or base.startswith(("/", ".", "~"))
    return Path(source.facts.path).name if is_path else base


def _kind(order: Order) -> str | None:
    if order.format not in FORMATS:
        raise InvalidRequestError(f"format {order.format!r} is not one of {', '.join(FORMATS)}")
    if order.type is None:
        return None
    if order.type not in TYPES:
        raise InvalidRequestError(f"type {order.type!r} is not one of {', '.join(TYPES)}")
    kind = order.type.upper()
    if order.format == "transformers" and kind not in FLOAT_KINDS:
        hint = "--format gguf holds it; transformers quantises by itself when it loads"
        raise InvalidRequestError(f"a transformers folder does not hold {order.type}", hint=hint)
    return kind


def _adapter_target(order: Order) -> Path:
    suffix = order.output.suffix if order.format == "gguf" else ""
    return order.output.with_name(f"{order.output.name.removesuffix(suffix)}-adapter{suffix}")


def gguf_changes(source: Source, kind: str | None, merged: Mapping[str, Rows]) -> dict[str, OutputTensor]:
    """The tensors that a GGUF file holds otherwise than the source, by canonical name.

    kind: that of all matrices, None for each its own. A merged matrix whose kind cannot be encoded becomes
    Q8_0. Scales of Q8_0 are fitted where that pays. The embedding, which is the head too, is not made Q4_0
    but Q8_0, as llama.cpp's own tool does it.
    """
    changes = {}
    for name, tensor in source.tensors.items():
        if len(tensor.shape) == 1:
            continue
        target = kind or tensor.kind
        if name in merged and target not in ENCODED_KINDS:
            target = "Q8_0"
        if target == "Q4_0" and kind is not None and name in _HEADS:
            target = "Q8_0"
        if target in BLOCK_KINDS and tensor.columns % _BLOCK:
            target = "F32"
        if name in merged or target != tensor.kind:
            fit = name not in merged and tensor.kind in _WITH_MINIMUM
            changes[name] = encoded(target, tensor.shape, merged.get(name, values_of(tensor)), fit=fit)
    return changes


@dataclass(frozen=True)
class _Job:
    """One export of a source, with its adapter merged if there is one."""

    source: Source
    order: Order
    kind: str | None
    adapter: AdapterFile | None
    origin: Origin
    say: Callable[[str], None]

    @property
    def merged(self) -> dict[str, Rows]:
        return {} if self.adapter is None else merged_values(self.source, self.adapter)

    def gguf(self, progress: Progress | None) -> Exported:
        changes = gguf_changes(self.source, self.kind, self.merged)
        found: list[Any] = []
        written = write_gguf(
            self.order.output,
            self.source,
            changes,
            force=self.order.force,
            progress=progress,
            check=lambda stage: found.append(
                self.examine(stage, llama_cpp_logits if has_llama_cpp() else None)
            ),
        )
        texts = terms_files(self.source, self.origin, self.changes(written))
        beside = write_beside(self.order.output, texts)
        manifest = self.manifest(self.order.output, written)
        changed = self.changed(written, set(changes), 0.0)
        return self.result(written, changed, found[0], [*beside, manifest])

    def folder(self, progress: Progress | None) -> Exported:
        kind = self.kind or folder_kind(self.source)
        planned = Written(str(self.order.output), 0, dict.fromkeys(self.source.tensors, kind))
        found: list[Any] = []
        theirs = self.order.transformers

        def check(stage: Path) -> None:
            found.append(self.examine(stage, None if theirs is None else partial(_transformers, theirs)))
            self.manifest(stage, planned)

        written = write_folder(
            self.order.output,
            self.source,
            kind,
            self.merged,
            others=terms_files(self.source, self.origin, self.changes(planned)) | licence_card(self.source),
            force=self.order.force,
            progress=progress,
            check=check,
        )
        offset = FAMILIES[self.source.config.family].hf_norm_offset
        return self.result(written, self.changed(written, set(self.merged), offset), found[0], [])

    def changed(self, written: Written, known: set[str], norm_offset: float) -> set[str]:
        """Names of tensors that are not stored as they were; `norm_offset`: of what was written."""
        same_norms = norm_offset == self.source.norm_offset
        return known | {
            name
            for name, tensor in self.source.tensors.items()
            if written.kinds[name] != tensor.kind or (len(tensor.shape) == 1 and not same_norms)
        }

    def examine(
        self, stage: Path, program: Callable[[Path], Computed] | None
    ) -> tuple[list[TensorError], LogitCheck | None] | None:
        """Compare what was written with the source, before it gets its name."""
        if not self.order.check:
            return None
        self.say("reading it again")
        errors = verify(stage, self.source, self.merged)
        if program is None:
            return errors, None
        self.say("computing a short text with it")
        ids, logits = expected_logits(self.source, self.adapter)
        limit = limit_of({error.name: error.kind for error in errors})
        return errors, compare(self.source, program(stage), ids, logits, limit)

    def adapter_apart(self, path: Path, adapter: AdapterFile, alone: float | None) -> LogitCheck | None:
        """Write the adapter, and compute a text with it beside the model that was written.

        alone: the mean KL divergence that the model showed without it; None where nothing computes it.
        """
        if self.order.format == "transformers":
            copy_adapter(path, self.source, adapter, force=self.order.force)
            return None
        found: list[LogitCheck] = []

        def also(stage: Path) -> None:
            if alone is None:
                return
            self.say("computing a short text with the adapter")
            ids, logits = expected_logits(self.source, adapter)
            limit = adapter_limit(alone, mean_divergence(logits, expected_logits(self.source, None)[1]))
            computed = llama_cpp_logits(self.order.output, stage)
            found.append(compare(self.source, computed, ids, logits, limit))

        write_adapter_gguf(path, self.source, adapter, force=self.order.force, also=also)
        return found[0] if found else None

    def changes(self, written: Written) -> list[str]:
        """What MODIFICATIONS and the manifest say was done."""
        kinds = ", ".join(sorted(set(written.kinds.values())))
        lines = [f"written as {self.order.format}, tensors as {kinds}"]
        if self.adapter is not None:
            lines.append(f"the adapter {self.adapter.name} (rank {self.adapter.rank}) was merged in float32")
        return lines + list(written.corrections)

    def manifest(self, path: Path, written: Written) -> Path:
        facts = self.source.facts
        inputs = [
            Input("source", self.origin.reference, sha256=self.origin.weights_sha256, licence=facts.licence)
        ]
        if self.origin.adapter is not None and self.adapter is not None:
            inputs.append(Input("adapter", self.origin.adapter, sha256=self.origin.adapter_sha256))
        derivation = derive(
            path,
            inputs,
            changes=self.changes(written),
            quantisation=self.order.type,
            licence=facts.licence,
        )
        written_to = write_manifest(path, derivation)
        written_to.chmod((path / CONFIG if path.is_dir() else path).stat().st_mode)  # as readable as the rest
        return written_to

    def result(
        self,
        written: Written,
        changed: set[str],
        examined: tuple[list[TensorError], LogitCheck | None] | None,
        beside: list[Path],
    ) -> Exported:
        errors = [] if examined is None else [error for error in examined[0] if error.name in changed]
        kinds: dict[str, int] = {}
        for kind in written.kinds.values():
            kinds[kind] = kinds.get(kind, 0) + 1
        output = self.order.output
        files = [output, *(sorted(output.iterdir()) if output.is_dir() else beside)]
        return Exported(
            path=str(output),
            format=self.order.format,
            nbytes=written.nbytes,
            kinds=kinds,
            copied=len(self.source.tensors) - len(changed),
            errors=tuple(errors),
            loss=None if examined is None else self.loss(errors),
            logits=None if examined is None else examined[1],
            checked=examined is not None,
            corrections=written.corrections,
            warnings=tuple(self.warnings(written)),
            files=tuple(map(str, files)),
        )

    def loss(self, errors: Sequence[TensorError]) -> float:
        """The error of all changed tensors together, each weighed by its number of values."""
        sizes = {name: float(np.prod(tensor.shape)) for name, tensor in self.source.tensors.items()}
        total = sum(sizes[error.name] for error in errors)
        square = sum(sizes[error.name] * error.error**2 for error in errors)
        return sqrt(square / total) if total else 0.0

    def warnings(self, written: Written) -> list[str]:
        lines = list(self.adapter.notices) if self.adapter is not None else []
        stored = {tensor.kind for tensor in self.source.tensors.values() if len(tensor.shape) > 1}
        quantised = [kind for kind in stored if not KINDS[kind].is_float]
        kinds = set(written.kinds.values())
        gemma = FAMILIES[self.source.config.family].configuration == "gemma"
        if self.order.format == "transformers" and "F16" in kinds and gemma:
            lines.append(
                "activations of Gemma 3 overflow half floats, so that a program that computes in f16 gets "
                "infinities; bf16 and f32 are safe"
            )
        if self.order.format == "transformers" and quantised and "F32" not in kinds:
            lines.append(
                f"values stored as {', '.join(sorted(quantised))} are rounded; --type f32 keeps them exactly"
            )
        if self.order.type == "q4_0" and not stored <= {"Q4_0", "Q8_0"}:
            lines.append(
                "plain rounding to 4 bits loses much; gemlet quantize searches better scales and measures"
            )
        return lines


def _transformers(program: TransformersLogits, folder: Path) -> Computed:
    ids, logits, stops = program(folder, TEXT)
    return Computed("transformers", tuple(ids), logits, frozenset(stops), frozenset(stops))
