"""Which examples make a step, and in which parts it is computed: the same for a seed, always."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Step = tuple[int, ...]
"""Numbers of the examples of one optimizer step."""


def epoch_steps(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[Step]:
    """All examples in a random order, cut into steps of at most `batch_tokens` tokens, or one example."""
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    return filled([int(index) for index in order], lengths, batch_tokens)


def filled(order: Sequence[int], lengths: Sequence[int], most: int) -> list[Step]:
    """Groups of examples in this order, each of at most `most` tokens, or of one longer example."""
    steps: list[Step] = []
    current: list[int] = []
    tokens = 0
    for index in order:
        if current and tokens + lengths[index] > most:
            steps.append(tuple(current))
            current, tokens = [], 0
        current.append(index)
        tokens += lengths[index]
    if current:
        steps.append(tuple(current))
    return steps


def dealt(parts: Sequence[Step], process: int, processes: int) -> list[Step]:
    """The parts of a step that one process of several computes."""
    return list(parts[process::processes])
