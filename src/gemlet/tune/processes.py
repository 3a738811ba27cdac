"""Several processes that train together, as `torchrun` starts them: each computes a part of every step."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as distributed
from torch import Tensor


class Processes:
    """This process among `count`; number 0 writes files and speaks. One alone needs no network."""

    def __init__(self) -> None:
        self.number, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1:
            distributed.init_process_group("gloo")

    @staticmethod
    def is_first() -> bool:
        """Whether this process is number 0, before they have met."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def first(self) -> bool:
        return self.number == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over all processes in place of each tensor, in one exchange."""
        if self.count == 1:
            return
        parts = list(tensors)
        joined = torch.cat([part.reshape(-1) for part in parts])
        distributed.all_reduce(joined)
        for part, total in zip(parts, joined.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view(part.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        told = torch.tensor([float(flag)])
        self.sum([told])
        return bool(told.item())

    def close(self) -> None:
        if self.count > 1:
            distributed.destroy_process_group()
