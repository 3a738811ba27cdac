"""The loss of next tokens, without ever holding the logits of all rows.

The loss of a row depends on its own hidden state alone. So the logits of a few rows are computed, turned into
each row's loss and its gradient, and overwritten: what is kept is as wide as the hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

LOGITS = 1 << 26
"""Logits held at a time: 128 MiB in bfloat16."""

SOFTMAX_ROWS = 8
"""Rows widened to float32 at a time: 8 MiB with 262,144 tokens, which stays in the cache."""


def token_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) of each row, float32 [rows]; gradients flow to `hidden`, and to `head` if it wants one.

    hidden: [rows, width]. head: [vocab, width] of the same type. labels: int64 [rows].
    """
    losses: Tensor = _TokenLosses.apply(hidden, head, labels)
    return losses


class _TokenLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        # What one unit of each row's loss does to its hidden state.
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in _parts(len(hidden), len(head)):
            logits = linear(hidden[part], head)
            losses[part] = _to_errors(logits, labels[part])
            if slopes is not None:
                slopes[part] = logits @ head
            del logits  # before the next ones
        ctx.save_for_backward(*(x for x in (slopes,) if x is not None))
        ctx.again = (hidden.detach(), head, labels) if ctx.needs_input_grad[1] else None
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden = grad_head = None
        if ctx.saved_tensors:
            (slopes,) = ctx.saved_tensors
            grad_hidden = slopes * grad[:, None].to(slopes.dtype)
        if ctx.again is not None:
            hidden, head, labels = ctx.again
            grad_head = torch.zeros_like(head, dtype=torch.float32)
            for part in _parts(len(hidden), len(head)):
                logits = linear(hidden[part], head)
                _to_errors(logits, labels[part])
                weighted = hidden[part] * grad[part, None].to(hidden.dtype)
                grad_head += logits.T @ weighted
                del logits
            grad_head = grad_head.to(head.dtype)
        return grad_hidden, grad_head, None


def _parts(rows: int, vocab: int) -> list[slice]:
    size = max(1, LOGITS // vocab)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _to_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Overwrites logits with p - onehot(label); gives the losses. Sums in float32."""
    losses = []
    for rows, wanted in zip(logits.split(SOFTMAX_ROWS), labels.split(SOFTMAX_ROWS), strict=True):
        wide = rows.float()
        wide -= wide.amax(1, keepdim=True)
        of_label = wide.gather(1, wanted[:, None]).squeeze(1)
        total = wide.exp_().sum(1, keepdim=True)
        losses.append(total.log().squeeze(1) - of_label)
        wide /= total
        wide.scatter_add_(1, wanted[:, None], torch.full_like(wide[:, :1], -1))
        rows.copy_(wide)
    return torch.cat(losses)
