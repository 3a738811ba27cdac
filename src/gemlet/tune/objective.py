"""What is made small: the loss of learned tokens, or of preferences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gemlet.tune.examples import Example, Pair
from gemlet.tune.network import Batch, Network

Item = Example | Pair


def tokens_of(item: Item) -> int:
    """How many tokens an item has the network read."""
    return sum(len(example.ids) for example in _examples(item))


def weight_of(item: Item) -> int:
    """What an item counts in a mean: its learned tokens, or one for a preference."""
    return 1 if isinstance(item, Pair) else int(item.learned.sum())


def total_loss(network: Network, items: Sequence[Item], beta: float) -> Tensor:
    """The sum over items, each with its `weight_of`: of -log p of learned tokens, or of the DPO loss."""
    batch = Batch.of([(x.ids, x.learned) for item in items for x in _examples(item)])
    losses = network.losses(batch)
    if isinstance(items[0], Example):
        return losses.sum()
    with network.as_base(), torch.no_grad():
        base = network.losses(batch)
    # How much likelier each answer became, chosen and rejected in turn.
    gains = torch.stack([part.sum() for part in (base - losses).split(list(batch.counts))])
    return -logsigmoid(beta * (gains[0::2] - gains[1::2])).sum()


def _examples(item: Item) -> tuple[Example, ...]:
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item,)
