"""Low-rank adaptation: a frozen matrix with two small trained ones beside it."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import dropout, linear

from gemlet.tune.matrices import Matrix
from gemlet.tune.settings import LoraSettings


class AdaptedMatrix:
    """base + scale * b · a, as `matrices.Matrix` has it; `a` [rank, columns] and `b` [rows, rank] float32.

    `a` starts at random, `b` at zero, so that training begins with the base's own results.
    """

    def __init__(self, base: Matrix, settings: LoraSettings, generator: torch.Generator) -> None:
        self.base, self.rows, self.columns = base, base.rows, base.columns
        self._settings = settings
        # Kaiming's uniform with a = sqrt(5), as peft has it: between -1 and 1 over sqrt(columns).
        a = torch.rand((settings.rank, base.columns), generator=generator) * 2 - 1
        self.a = Parameter(a / sqrt(base.columns))
        self.b = Parameter(torch.zeros(base.rows, settings.rank))
        self.active = self.training = True

    @property
    def nbytes(self) -> int:
        return self.base.nbytes + self.a.nbytes + self.b.nbytes

    def dense(self) -> Tensor:
        return self.base.dense()

    def looked_up(self, ids: Tensor) -> Tensor:
        return self.base.looked_up(ids)

    def product(self, x: Tensor) -> Tensor:
        base = self.base.product(x)
        if not self.active:
            return base
        inputs = x
        if self.training and self._settings.dropout:
            inputs = dropout(x, self._settings.dropout)
        inner = linear(inputs, self.a.to(x.dtype))
        return torch.addmm(base, inner, self.b.to(x.dtype).T, alpha=self._settings.scale)
