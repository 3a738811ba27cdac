"""How far one model's next-token distributions are from another's, and what that costs, with intervals.

Both read the same token ids. Logits come in chunks: neither text nor vocabulary is held as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError
from gemlet.model.decoder import Decoder
from gemlet.ops.batch import Batch
from gemlet.statistics.intervals import Interval, bootstrap

Float32 = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the tokens done and in all."""

Logits = Callable[[Sequence[int], int], Iterator[Float32]]
"""Token ids and a position to the logits behind it and each later one: float32 [n, vocab], some at a time."""

ROWS = 64
"""Rows of logits in memory at a time: 64 MiB a model with 262,144 tokens."""


@dataclass(frozen=True)
class Document:
    """What was measured of one document. `kl` is a mean in nats, perplexities are of its own tokens."""

    tokens: int
    kl: float
    top1: float
    perplexity: float
    perplexity_source: float


@dataclass(frozen=True)
class Quality:
    """A model beside its source. KL from the source's distributions, in nats, at every token.

    `perplexity_ratio` is the model's over the source's: 1.18 is 18 % more. Intervals are at 95 %, documents
    drawn anew.
    """

    tokens: int
    kl: Interval
    kl_p99: Interval
    top1: Interval
    perplexity: Interval
    perplexity_source: Interval
    perplexity_ratio: Interval
    documents: tuple[Document, ...]


def decoder_logits(decoder: Decoder, rows: int = ROWS) -> Logits:
    """The logits of a decoder, as `compare` takes them."""

    def logits(ids: Sequence[int], first: int) -> Iterator[Float32]:
        state = decoder.new_state()
        for start in range(0, len(ids), rows):
            batch = Batch.of([(state, ids[start : start + rows])], logits="none")
            wanted = np.flatnonzero(batch.positions >= first).astype(np.int32)
            found = decoder.step(replace(batch, logits=wanted)).logits
            if len(found):
                yield found

    return logits


def log_probability(logits: Logits, ids: Sequence[int], first: int) -> float:
    """Of all tokens from position `first` on, together, behind those before it."""
    total, at = 0.0, first
    for rows in logits(ids[:-1], first - 1):
        following = ids[at : at + len(rows)]
        at += len(rows)
        total += float(measure_rows(rows, rows, following)[:, 2].sum())
    return total


def check_same_vocabulary(source: str, model: str, sizes: tuple[int, int], hashes: tuple[str, str]) -> None:
    """InvalidRequestError where ids mean something else to the one than to the other."""
    if sizes[0] != sizes[1] or hashes[0] != hashes[1]:
        raise InvalidRequestError(
            f"{model} cannot be compared with {source}: their vocabularies differ "
            f"({sizes[1]} tokens, {hashes[1][:12]}; {sizes[0]} tokens, {hashes[0][:12]})",
            hint="distributions can be compared over the same tokens only",
        )


def compare(
    source: Logits, model: Logits, documents: Sequence[Sequence[int]], progress: Progress | None = None
) -> Quality:
    """Measure `model` against `source` on documents of token ids, each with its BOS.

    Raises InvalidRequestError for a document of less than two tokens, and for models of different widths.
    """
    if not documents or min(map(len, documents)) < 2:
        raise InvalidRequestError("a text to measure on needs at least two tokens in each document")
    total, done = sum(map(len, documents)), 0
    measured = []
    for ids in documents:
        parts = []
        for rows in paired_rows(source, model, ids):
            parts.append(rows)
            done += len(rows)
            if progress is not None:
                progress(done, total)
        measured.append(np.concatenate(parts))
    return summary(measured)


def paired_rows(source: Logits, model: Logits, ids: Sequence[int]) -> Iterator[NDArray[np.float64]]:
    """A document as rows of `measure_rows`, some at a time. InvalidRequestError for other widths."""
    at = 0
    for ours, theirs in zip(source(ids, 0), model(ids, 0), strict=True):
        if ours.shape != theirs.shape:
            problem = f"logits of {ours.shape[1]} and {theirs.shape[1]} tokens cannot be compared"
            raise InvalidRequestError(problem, hint="the models have different vocabularies")
        following = ids[at + 1 : at + 1 + len(ours)]
        at += len(ours)
        yield measure_rows(ours, theirs, following)


def measure_rows(source: Float32, model: Float32, following: Sequence[int]) -> NDArray[np.float64]:
    """[n, 4]: KL(source || model), whether the likeliest token is the same, and both log-probabilities of
    the following token, NaN where there is none."""
    shifted = source - source.max(axis=1, keepdims=True)
    other = model - model.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1, dtype=np.float64)
    logsum, logsum_other = np.log(total), np.log(np.exp(other).sum(axis=1, dtype=np.float64))
    result = np.full((len(source), 4), np.nan)
    # sum p (log p - log q), with the sums of the powers taken out of the logarithms
    result[:, 0] = np.einsum("nv,nv->n", weights, shifted - other, dtype=np.float64) / total
    result[:, 0] += logsum_other - logsum
    result[:, 1] = source.argmax(axis=1) == model.argmax(axis=1)
    rows, ids = np.arange(len(following)), np.asarray(following, np.intp)
    result[rows, 2] = shifted[rows, ids] - logsum[rows]
    result[rows, 3] = other[rows, ids] - logsum_other[rows]
    return result


def summary(measured: Sequence[NDArray[np.float64]]) -> Quality:
    """All documents together, each as rows of `measure_rows`."""
    # The last row of a document has no following token: it takes part in KL and agreement alone.
    scored = [rows[~np.isnan(rows[:, 2])] for rows in measured]

    def loss(rows: Sequence[NDArray[np.float64]], column: int) -> Interval:
        return bootstrap(rows, lambda x: -float(x[:, column].mean()))

    everywhere = [rows[:, :2] for rows in measured]
    ratio = bootstrap(scored, lambda x: float((x[:, 2] - x[:, 3]).mean()))
    return Quality(
        tokens=sum(map(len, measured)),
        kl=bootstrap(everywhere, lambda x: float(x[:, 0].mean())),
        kl_p99=bootstrap(everywhere, lambda x: float(np.quantile(x[:, 0], 0.99)), method="percentile"),
        top1=bootstrap(everywhere, lambda x: float(x[:, 1].mean())),
        perplexity=loss(scored, 3).map(_exp),
        perplexity_source=loss(scored, 2).map(_exp),
        perplexity_ratio=ratio.map(_exp),
        documents=tuple(
            Document(
                tokens=len(rows),
                kl=float(rows[:, 0].mean()),
                top1=float(rows[:, 1].mean()),
                perplexity=_exp(-float(own[:, 3].mean())),
                perplexity_source=_exp(-float(own[:, 2].mean())),
            )
            for rows, own in zip(measured, scored, strict=True)
        ),
    )


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def as_json(quality: Quality) -> dict[str, Any]:
    """A JSON-ready form; ends of intervals that are not finite are None."""

    def value(item: Any) -> Any:
        if isinstance(item, Interval):
            return {name: number if math.isfinite(number) else None for name, number in vars(item).items()}
        if isinstance(item, tuple):
            return [vars(document) for document in item]
        return item

    return {name: value(item) for name, item in vars(quality).items()}
