"""Choosing the next token from a row of logits.

The steps are those of Hugging Face, in its order: logit bias, penalties, temperature, top-k, top-p on what
is left, min-p. The draw is the inverse of the cumulative distribution over the candidates in descending order
of their logits, equal logits by ascending id, with every sum in float64. Its uniform number comes from a
counter (seed, choice, position) and not from a stream, so a token depends on its logits and on nothing that
happened around the request.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import GemletError, InvalidRequestError, UnsupportedParameterError
from gemlet.infer.allowed import Allowed
from gemlet.ops.batch import Largest
from gemlet.types import Sampling

Row = NDArray[np.float32]
Alternatives = tuple[tuple[int, float], ...]

REACH = 1024
"""Candidates ranked without sorting the vocabulary; more are looked at only where they can matter."""

FORBIDDEN = 16
"""Ids at least that a constraint may take out of the largest before all that it allows are looked at."""

SAMPLING_NAMES = tuple(field.name for field in fields(Sampling))


class Ranking(Protocol):
    """The two reductions over a vocabulary that a decoder has fast versions of."""

    def top_k(self, logits_row: Row, k: int) -> tuple[NDArray[np.int32], Row]:
        """Ids and values of the k largest, descending, ties by ascending id."""

    def logsumexp(self, row: Row) -> float:
        """log(sum(exp(row)))."""


def merge_sampling(defaults: Sampling, given: Mapping[str, Any], vocab_size: int) -> Sampling:
    """The defaults with what was given put over them; None is not given.

    Raises UnsupportedParameterError for a name that is none of them, InvalidRequestError for a bad value.
    """
    for name in given:
        if name not in SAMPLING_NAMES:
            known = f"sampling parameters are {', '.join(SAMPLING_NAMES)}"
            raise UnsupportedParameterError(name, f"unknown parameter {name!r}", hint=known)
    sampling = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    check_sampling(sampling, vocab_size)
    return replace(sampling, logit_bias=dict(sampling.logit_bias))


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """InvalidRequestError that names the field, unless every value has its type and range."""
    _check_number("temperature", sampling.temperature, 0.0, sys.float_info.max)
    _check_number("top_p", sampling.top_p, 0.0, 1.0)
    _check_number("min_p", sampling.min_p, 0.0, 1.0)
    # Beyond these a penalised logit could leave the range of float32.
    _check_number("repetition_penalty", sampling.repetition_penalty, 0.01, 100.0)
    _check_number("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _check_number("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    if not _is_int(sampling.top_k) or sampling.top_k < 0:
        raise InvalidRequestError(f"top_k must be a whole number from 0 (off), not {sampling.top_k!r}")
    if not isinstance(sampling.logit_bias, Mapping):
        raise InvalidRequestError("logit_bias must map token ids to numbers")
    for token, bias in sampling.logit_bias.items():
        if not _is_int(token) or not 0 <= token < vocab_size:
            raise InvalidRequestError(f"logit_bias: {token!r} is not a token id from 0 to {vocab_size - 1}")
        _check_number(f"logit_bias of token {token}", bias, -100.0, 100.0)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        wanted = f"from {low:g}" if high == sys.float_info.max else f"from {low:g} to {high:g}"
        raise InvalidRequestError(f"{name} must be a finite number {wanted}, not {value!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def draw_seed() -> int:
    """A seed from the system's randomness, small enough that every JSON reader keeps it exact."""
    return int.from_bytes(os.urandom(8), "little") >> 11


def check_seed(seed: object) -> int:
    """The seed, or InvalidRequestError unless it is a signed 64-bit number."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63:
        raise InvalidRequestError(f"seed must be a whole number of at most 64 bits, not {seed!r}")
    return seed


def uniform(seed: int, choice: int, position: int) -> float:
    """The number in [0, 1) of that seed, choice within the call, and absolute position."""
    digest = hashlib.blake2b(struct.pack("<qQQ", seed, choice, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


class Sampler:
    """Chooses the tokens of one choice and remembers the tokens its penalties count."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        seed: int,
        choice: int,
        prompt_ids: Sequence[int],
        ranking: Ranking,
    ) -> None:
        self._sampling = sampling
        self._seed = seed
        self._choice = choice
        self._ranking = ranking
        self._answer: Counter[int] = Counter()
        self._seen = dict.fromkeys(prompt_ids) if sampling.repetition_penalty != 1 else {}
        counts = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self._counts_tokens = counts or sampling.repetition_penalty != 1
        self._changes_row = self._counts_tokens or bool(sampling.logit_bias)

    @property
    def reach(self) -> int | None:
        """How many of the largest logits are enough to choose by; None when any may be needed."""
        if self._changes_row or self._sampling.top_k > REACH:
            return None
        return 1 if self._sampling.temperature == 0 else self._sampling.top_k or None

    def choose(self, row: Row | Largest, position: int, allowed: Allowed | None = None) -> int:
        """The token at an absolute position. `row`: float32 [vocab], not changed, or its `reach` largest.

        `allowed`: the ids to choose among, after bias and penalties; None for all. The largest of a row have
        to be the largest of these.
        """
        u = uniform(self._seed, self._choice, position)
        if isinstance(row, Largest):
            return choose_of_largest(row, self._sampling, u, self._ranking)
        if self._changes_row:
            row = self._changed(row)
        if allowed is None:
            token = choose(row, self._sampling, u, self._ranking)
        else:
            token = choose_allowed(row, allowed, self._sampling, u, self._ranking)
        if self._counts_tokens:
            self._answer[token] += 1
            self._seen[token] = None
        return token

    def _changed(self, row: Row) -> Row:
        sampling, row = self._sampling, row.copy()
        if sampling.logit_bias:
            ids = np.fromiter(sampling.logit_bias, np.int64)
            row[ids] += np.fromiter(sampling.logit_bias.values(), np.float32)
        if sampling.repetition_penalty != 1:
            ids = np.fromiter(self._seen, np.int64)
            penalty, values = np.float32(sampling.repetition_penalty), row[ids]
            row[ids] = np.where(values < 0, values * penalty, values / penalty)
        if self._answer:
            ids = np.fromiter(self._answer, np.int64)
            counts = np.fromiter(self._answer.values(), np.float32) * np.float32(sampling.frequency_penalty)
            row[ids] -= np.float32(sampling.presence_penalty) + counts
        return row


def choose(row: Row, sampling: Sampling, u: float, ranking: Ranking) -> int:
    """The token that `u` in [0, 1) picks from a row of logits, after bias and penalties.

    Raises GemletError when the logits are not finite.
    """
    _check_finite(row.min())  # a NaN anywhere is carried on; what is too large is found as the largest
    if sampling.temperature == 0:
        token = int(np.argmax(row))
        _check_finite(row[token])
        return token
    limit = min(sampling.top_k or len(row), len(row))
    if limit <= REACH or sampling.top_k == 0:
        ids, values = ranking.top_k(row, min(limit, REACH))
        picked = _pick(values, row, limit, sampling, u, ranking)
        if picked is not None:
            return int(ids[picked])
    order = np.argsort(-row, kind="stable")[:limit]
    picked = _pick(row[order], row, limit, sampling, u, ranking)
    assert picked is not None  # every candidate was there to be picked
    return int(order[picked])


def choose_allowed(row: Row, allowed: Allowed, sampling: Sampling, u: float, ranking: Ranking) -> int:
    """What `choose` picks from the allowed ids alone."""
    _check_finite(row.min())
    wanted = 1 if sampling.temperature == 0 else sampling.top_k
    if 0 < wanted <= REACH:
        # Most are allowed as a rule, and then those that count are among the largest of all.
        ids, values = ranking.top_k(row, min(wanted + max(wanted, FORBIDDEN), len(row)))
        held = allowed.holds(ids)
        if np.count_nonzero(held) >= wanted:
            largest = Largest(ids[held][:wanted], values[held][:wanted])
            return choose_of_largest(largest, sampling, u, ranking)
    every = allowed.ids
    return int(every[choose(row[every], sampling, u, ranking)])


def choose_of_largest(largest: Largest, sampling: Sampling, u: float, ranking: Ranking) -> int:
    """What `choose` picks from the whole row, given as many of its logits as `Sampler.reach` says."""
    _check_finite(largest.values[0])  # one that is not finite fills the row
    if sampling.temperature == 0:
        return int(largest.ids[0])
    values = largest.values[: sampling.top_k]
    picked = _pick(values, values, len(values), sampling, u, ranking)
    assert picked is not None  # every candidate was there to be picked
    return int(largest.ids[picked])


def _pick(values: Row, row: Row, limit: int, sampling: Sampling, u: float, ranking: Ranking) -> int | None:
    """Index of the drawn candidate; None when candidates behind the given ones are needed to tell.

    `values` are the largest logits in descending order, at most `limit`, which is what top-k leaves.
    """
    _check_finite(values[0])
    weights = _weights(values, float(values[0]), sampling.temperature)
    cumulative = np.cumsum(weights)
    reached = float(cumulative[-1])
    complete = len(values) == limit
    truncated = complete
    kept = len(values)
    total = reached
    if not complete and (sampling.top_p < 1 or sampling.min_p == 0):
        total = _total(row, float(values[0]), sampling.temperature, ranking)
    if sampling.top_p < 1:
        # A candidate stays when what lies before it is below top_p: the one that crosses the line is kept.
        kept = 1 + int(np.searchsorted(cumulative[:-1], sampling.top_p * total, side="left"))
        truncated = truncated or reached >= sampling.top_p * total
    if sampling.min_p > 0:
        likely = int(np.count_nonzero(weights >= sampling.min_p))
        truncated = truncated or likely < len(values)
        kept = min(kept, likely)
    if not truncated and (sampling.top_p < 1 or sampling.min_p > 0):
        return None
    target = u * (float(cumulative[kept - 1]) if truncated else total)
    if not truncated and target >= reached:
        return None
    return min(int(np.searchsorted(cumulative, target, side="right")), kept - 1)


def _weights(values: Row, largest: float, temperature: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore", under="ignore"):
        weights: NDArray[np.float64] = np.exp((values.astype(np.float64) - largest) / temperature)
    return weights


def _total(row: Row, largest: float, temperature: float, ranking: Ranking) -> float:
    """The sum of every token's weight, in units of the largest."""
    if temperature == 1:
        return math.exp(ranking.logsumexp(row) - largest)
    with np.errstate(over="ignore", under="ignore"):
        divisor = np.float32(max(temperature, 1e-30))  # what is far smaller would be a float32 zero
        scaled = ((row - np.float32(largest)) / divisor).astype(np.float32, copy=False)
    return math.exp(ranking.logsumexp(scaled))


def _check_finite(logit: np.float32) -> None:
    if not math.isfinite(logit):
        hint = "the weights may be damaged: gemlet check"
        raise GemletError("the model's logits are not finite", hint=hint)


def logprob(row: Row, token: int, top: int, ranking: Ranking) -> tuple[float, Alternatives]:
    """Log-softmax of the unmodified logits: the token's, and the `top` likeliest ids with theirs."""
    normaliser = ranking.logsumexp(row)
    if top == 0:
        return float(row[token]) - normaliser, ()
    ids, values = ranking.top_k(row, min(top, len(row)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return float(row[token]) - normaliser, tuple((i, value - normaliser) for i, value in pairs)
