"""The batch of one step, of what each sequence brings to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemlet.infer.sequences import Sequence
from gemlet.ops.batch import Batch


def batch_of(spans: list[tuple[Sequence, int, int]], wanted: list[tuple[list[int], list[int]]]) -> Batch:
    """spans: each sequence with the first position and the number of the rows that it computes. wanted: of
    each, the positions whose logits and whose hidden states are needed.
    """
    ids: list[int] = []
    positions: list[int] = []
    logits: list[int] = []
    hidden: list[int] = []
    for (sequence, start, rows), (of_logits, of_hidden) in zip(spans, wanted, strict=True):
        offset = len(ids) - start
        ids += sequence.tokens(start, rows)
        positions += range(start, start + rows)
        logits += [position + offset for position in of_logits]
        hidden += [position + offset for position in of_hidden]
    states = tuple(sequence.state for sequence, _, _ in spans if sequence.state is not None)
    loaded = [sequence.call.request.adapter for sequence, _, _ in spans]
    adapters = (
        tuple(None if adapter is None else adapter.computed for adapter in loaded) if any(loaded) else ()
    )
    vectors = [np.asarray(values, np.int32) for values in (ids, positions, logits, hidden)]
    # Whole rows, unless everybody can do with the largest logits: 0 says whole.
    tops = [sequence.top or 0 for (sequence, _, _), (needed, _) in zip(spans, wanted, strict=True) if needed]
    top = max(tops) if tops and min(tops) > 0 else 0
    counts = tuple(rows for _, _, rows in spans)
    allowed = _allowed(spans, wanted, bool(top))
    return Batch(vectors[0], vectors[1], states, counts, vectors[2], vectors[3], adapters, top, allowed)


def _allowed(
    spans: list[tuple[Sequence, int, int]], wanted: list[tuple[list[int], list[int]]], first: bool
) -> tuple[NDArray[np.uint8] | None, ...]:
    """The ids that each row of logits is chosen among. Unless that has to be known `first`, it is worked out
    beside the step: whole rows are handed out, and told apart afterwards.
    """
    counts = [(sequence, len(needed)) for (sequence, _, _), (needed, _) in zip(spans, wanted, strict=True)]
    for sequence, count in counts:
        sequence.prepare(count > 0)
    if not first:
        return ()
    rows = [bits for sequence, count in counts for bits in sequence.allowed(count)]
    return tuple(rows) if any(bits is not None for bits in rows) else ()
