"""Attention within sequences that lie one after another, some rows at a time.

The same rows see the same columns in every layer of a kind, so what is visible is worked out once a batch.
Probabilities are computed again for the backward pass: nothing that is rows times columns is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ROWS = 256
"""Rows computed at a time: fewer waste less on columns that no row sees, more keep products large."""


@dataclass(frozen=True)
class View:
    """Rows `start` to `stop` see columns `first` to `stop`, but not those where `hidden` [rows, columns]."""

    first: int
    start: int
    stop: int
    hidden: Tensor


def views(positions: Tensor, window: int | None) -> list[View]:
    """What the rows of a batch see, whose sequences begin where `positions` is 0.

    A row sees its own sequence up to itself, and of that the last `window`.
    """
    rows = torch.arange(len(positions), device=positions.device)
    begins = rows - positions
    if window is not None:
        begins = torch.maximum(begins, rows - window + 1)
    result = []
    for start in range(0, len(rows), ROWS):
        stop = min(start + ROWS, len(rows))
        first = int(begins[start:stop].min())
        columns, own = rows[first:stop], slice(start, stop)
        hidden = (columns > rows[own, None]) | (columns < begins[own, None])
        result.append(View(first, start, stop, hidden))
    return result


class Attend(Function):
    """softmax(scale * q · kᵀ) · v, with q [kv_heads, group, rows, d], k and v [kv_heads, rows, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: list[View], scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.seen, ctx.scale = seen, scale
        result = torch.empty_like(q)
        for view in seen:
            own, columns = slice(view.start, view.stop), slice(view.first, view.stop)
            weights = _weights(q[:, :, own], k[:, columns], view.hidden, scale).to(v.dtype)
            result[:, :, own] = _product(weights, v[:, columns])
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for view in ctx.seen:
            own, columns = slice(view.start, view.stop), slice(view.first, view.stop)
            queries, keys, values, slopes = q[:, :, own], k[:, columns], v[:, columns], grad[:, :, own]
            weights = _weights(queries, keys, view.hidden, ctx.scale)
            grad_v[:, columns] += _joined(weights.to(v.dtype)).transpose(1, 2) @ _joined(slopes)
            change = _product(slopes, values.transpose(1, 2)).float()
            change -= (change * weights).sum(-1, keepdim=True)
            scores = change.mul_(weights).mul_(ctx.scale).to(q.dtype)
            grad_q[:, :, own] = _product(scores, keys)
            grad_k[:, columns] += _joined(scores).transpose(1, 2) @ _joined(queries)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def _weights(q: Tensor, k: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """Probabilities in float32, [kv_heads, group, rows, columns]."""
    scores = _product(q, k.transpose(1, 2)).float().mul_(scale)
    return scores.masked_fill_(hidden, float("-inf")).softmax(-1)


def _joined(x: Tensor) -> Tensor:
    """[kv_heads, group, rows, d] to [kv_heads, group * rows, d]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x [kv_heads, group, rows, n] · y [kv_heads, n, m]."""
    return (_joined(x) @ y).view(*x.shape[:3], -1)
