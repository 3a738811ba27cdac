"""The decoder's operations over torch tensors, with gradients.

A batch is several sequences one after another, without padding: rows are kept apart by every operation but
`attend`, which is told where sequences begin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gemlet.ops.operations import frequencies
from gemlet.tune.attention import Attend, View, views
from gemlet.tune.functions import GeluGate, Norm, Rotate, SiluGate
from gemlet.tune.matrices import Matrix


class TorchOperations:
    """`ops.operations.Operations` for one batch, up to the last layer: what follows is the loss's.

    ids: int64 [rows]. lengths: of the sequences, in order, together `rows`. dtype: of products; the sums
    along the layers (the residual stream) are float32.
    """

    def __init__(self, ids: Tensor, lengths: Sequence[int], dtype: torch.dtype) -> None:
        self._ids, self._lengths, self._dtype = ids, list(lengths), dtype
        self._positions = torch.cat([torch.arange(n, device=ids.device) for n in lengths])
        self._views: dict[int | None, list[View]] = {}
        self._turns: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def embed(self, table: Matrix, scale: float) -> Tensor:
        return table.looked_up(self._ids).float() * scale

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        groups = x.view(len(x), -1, len(weight))
        normed: Tensor = Norm.apply(groups, weight, eps, self._dtype)
        return normed.view(x.shape)

    def linear(self, x: Tensor, weight: Matrix, precise: bool = False) -> Tensor:
        return weight.product(x)

    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias.to(x.dtype)

    def rope(self, x: Tensor, head_dim: int, theta: float, divisors: tuple[float, ...] = ()) -> Tensor:
        key = (head_dim, theta, divisors, x.dtype)
        if key not in self._turns:
            turns = torch.from_numpy(frequencies(head_dim, theta, divisors)).to(x.device)
            angles = (self._positions[:, None].float() * turns)[:, None]
            self._turns[key] = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        rotated: Tensor = Rotate.apply(x.view(len(x), -1, head_dim), *self._turns[key])
        return rotated.view(x.shape)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None,
    ) -> Tensor:
        if window not in self._views:
            self._views[window] = views(self._positions, window)
        # Heads first; query heads that share a key head are beside each other: [kv_heads, group, rows, d].
        queries = q.view(len(q), kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3)
        keys, values = (x.view(len(x), kv_heads, head_dim).transpose(0, 1) for x in (k, v))
        mixed: Tensor = Attend.apply(queries, keys, values, self._views[window], scale)
        return mixed.permute(2, 0, 1, 3).reshape(q.shape)

    def gelu_gate(self, gate: Tensor, up: Tensor) -> Tensor:
        gated: Tensor = GeluGate.apply(gate, up)
        return gated

    def silu_gate(self, gate: Tensor, up: Tensor) -> Tensor:
        gated: Tensor = SiluGate.apply(gate, up)
        return gated

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y
