"""A model as training sees it: the decoder's layers over torch tensors, and what of it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from gemlet.formats.files import release_pages
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import layer
from gemlet.model.weights import Weights
from gemlet.ops.packed import unpack
from gemlet.tune.lora import AdaptedMatrix
from gemlet.tune.loss import token_losses
from gemlet.tune.matrices import DenseMatrix, Matrix, make_matrix
from gemlet.tune.settings import Base, LoraSettings
from gemlet.tune.torch_operations import TorchOperations

ROWS = 64
"""Batches are filled up to a multiple of this: each number of rows costs memory of its own, for good, in the
library that multiplies matrices."""


@dataclass(frozen=True)
class Batch:
    """Sequences one after another, and one of padding that nothing is learned of. ids: int64 [rows].

    rows: those whose next token is learned, and labels: that token, int64 [labels]. lengths: of the
    sequences, padding included; counts: the labels of each sequence that is none.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    rows: Tensor
    labels: Tensor
    counts: tuple[int, ...]

    @staticmethod
    def of(sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]]) -> Batch:
        """Of token ids, each with flags for those that are to be predicted; never the first."""
        ids = np.concatenate([ids for ids, _ in sequences]).astype(np.int64)
        learned = np.concatenate([flags for _, flags in sequences])
        wanted = np.flatnonzero(learned)
        padding = -len(ids) % ROWS
        ids = np.concatenate([ids, np.zeros(padding, np.int64)])
        lengths = [len(own) for own, _ in sequences]
        return Batch(
            torch.from_numpy(ids),
            tuple(lengths + [padding] * (padding > 0)),
            torch.from_numpy(wanted - 1),
            torch.from_numpy(ids[wanted]),
            tuple(int(flags.sum()) for _, flags in sequences),
        )


class Network:
    """A model's values as tensors; `parameters` are those that are trained.

    dtype: of products. base: how frozen matrices are held. lora: None trains every value, in float32.
    seed: of the adapter's start. recompute: keep one tensor a layer for the backward pass, and compute the
    rest again: less memory, a third more time.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        dtype: torch.dtype = torch.bfloat16,
        base: Base = "dense",
        lora: LoraSettings | None = None,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        self.config, self.dtype, self.lora, self.recompute = config, dtype, lora, recompute
        self.matrices: dict[str, Matrix] = {}
        self.vectors: dict[str, Tensor] = {}
        self._parameters: dict[str, Parameter] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, packed in weights.packed.items():
            if lora is None:
                self._parameters[name] = Parameter(torch.from_numpy(unpack(packed)))
                self.matrices[name] = DenseMatrix(self._parameters[name])
                continue
            # Rows are looked up in the table and multiplied with as the head: it is held dense.
            held = base if name.startswith("blk.") else "dense"
            matrix = make_matrix(packed, held, dtype)
            if name.startswith("blk.") and name.split(".")[-1] in lora.targets:
                matrix = self._adapted(name, matrix, lora, generator)
            self.matrices[name] = matrix
            release_pages(next(iter(packed.arrays.values())))
        for name, vector in weights.vectors.items():
            values = torch.from_numpy(np.array(vector, np.float32))
            if lora is None:
                values = self._parameters[name] = Parameter(values)
            self.vectors[name] = values
        # The decoder's words for them: it hands them on to the operations and reads nothing of them.
        self._weights = cast(Weights, _Named(self.matrices, self.vectors))

    def _adapted(
        self, name: str, base: Matrix, lora: LoraSettings, generator: torch.Generator
    ) -> AdaptedMatrix:
        matrix = AdaptedMatrix(base, lora, generator)
        self._parameters[name + ".a"], self._parameters[name + ".b"] = matrix.a, matrix.b
        return matrix

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What is trained, by name: `NAME.a` and `NAME.b` of an adapted matrix, or all values."""
        return self._parameters

    @property
    def nbytes(self) -> int:
        """Of all values, without gradients."""
        matrices = sum(matrix.nbytes for matrix in self.matrices.values())
        return matrices + sum(vector.nbytes for vector in self.vectors.values())

    @property
    def adapted(self) -> dict[str, AdaptedMatrix]:
        return {name: m for name, m in self.matrices.items() if isinstance(m, AdaptedMatrix)}

    def losses(self, batch: Batch) -> Tensor:
        """-log p of every label of a batch, float32 [labels]."""
        hidden = self.hidden(batch)
        return token_losses(hidden, self.head.dense().to(self.dtype), batch.labels)

    @property
    def head(self) -> Matrix:
        return self.matrices.get("output", self.matrices["token_embd"])

    def hidden(self, batch: Batch) -> Tensor:
        """The normed final hidden states of the rows that have labels, [labels, width]."""
        ops = TorchOperations(batch.ids, batch.lengths, self.dtype)
        config = self.config
        x = ops.embed(self.matrices["token_embd"], config.embedding_scale)
        for index in range(config.num_layers):
            x = self._layer(ops, index, x)
        return ops.norm(x[batch.rows], self.vectors["output_norm"], config.rms_norm_eps)

    def _layer(self, ops: TorchOperations, index: int, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            result: Tensor = layer(cast(Any, ops), self.config, self._weights, index, x)
            return result

        if self.recompute and torch.is_grad_enabled():
            x = checkpoint(run, x, use_reentrant=False)
            return x
        return run(x)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside, the adapter adds nothing."""
        self._switch(active=False)
        try:
            yield
        finally:
            self._switch(active=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, nothing is left out at random, and no gradients are kept."""
        self._switch(training=False)
        try:
            with torch.no_grad():
                yield
        finally:
            self._switch(training=True)

    def _switch(self, **flags: bool) -> None:
        for matrix in self.adapted.values():
            for name, value in flags.items():
                setattr(matrix, name, value)


@dataclass(frozen=True)
class _Named:
    packed: Mapping[str, Matrix]
    vectors: Mapping[str, Tensor]
