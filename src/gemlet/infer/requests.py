"""What goes into the engine and what comes out: frozen values of ids and numbers, never a string of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gemlet.infer.adapters import LoadedAdapter
from gemlet.infer.constrain import Constraint
from gemlet.types import Sampling


@dataclass(frozen=True)
class AnswerRequest:
    """Continue a prompt `n` times, each until a stop id or `max_tokens`.

    `logprobs`: alternatives reported with each token; None for no log-probabilities at all. `cache`: pages
    of earlier requests may be taken, and its own kept; `draft`: drafts may be checked. Both change no bit.
    """

    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    seed: int
    n: int = 1
    stop_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    priority: int = 0
    adapter: LoadedAdapter | None = None
    constraint: Constraint | None = None
    cache: bool = True
    draft: bool = True

    @property
    def positions(self) -> int:
        """Positions of the context that it may take."""
        return len(self.ids) + self.max_tokens

    @property
    def rows(self) -> int:
        """Rows to compute before the answer begins."""
        return len(self.ids)

    @property
    def reusable(self) -> int:
        """Rows that need not be computed when a state holds them already."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class PromptRequest:
    """Read a prompt and give numbers of its positions, which are ascending.

    `logits`, `hidden`: positions whose row is wanted. `score_from`: index, at least 1, of the first token
    whose log-probability, given those before it, is wanted; `top`: alternatives reported with each.
    """

    ids: tuple[int, ...]
    logits: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    score_from: int | None = None
    top: int = 0
    priority: int = 0
    adapter: LoadedAdapter | None = None

    @property
    def positions(self) -> int:
        """Positions of the context that it takes."""
        return self.rows

    @property
    def scored(self) -> range:
        """Positions whose next token is scored."""
        first = len(self.ids) if self.score_from is None else self.score_from
        return range(first - 1, len(self.ids) - 1)

    @property
    def wanted(self) -> frozenset[int]:
        """Positions whose row is needed for anything."""
        return frozenset((*self.logits, *self.hidden, *self.scored))

    @property
    def rows(self) -> int:
        """Rows to compute: none is needed behind the last wanted position."""
        return max(self.wanted) + 1

    @property
    def reusable(self) -> int:
        """Rows that need not be computed when a state holds them already."""
        return min(self.wanted)


Request = AnswerRequest | PromptRequest


def adapter_key(request: Request) -> bytes:
    """What sets the states of requests with different adapters apart."""
    return b"" if request.adapter is None else request.adapter.info.sha256.encode()


@dataclass(frozen=True)
class Started:
    """The request is computed from now on. `at` is `time.perf_counter()`."""

    at: float
    cached_tokens: int
    cache_miss_reason: str | None


@dataclass(frozen=True)
class Token:
    """One token of choice `index`. `finish` is set on a choice's last token; `top`: (id, logprob) pairs.

    `drafted`, `accepted`: drafted tokens of the choice that were checked, and that were chosen, up to here.
    """

    at: float
    index: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Literal["stop", "length"] | None = None
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Cancelled:
    """Choice `index` ended without a further token."""

    index: int


@dataclass(frozen=True)
class Outputs:
    """What a PromptRequest asked for.

    logits: float32 [positions, vocab]. hidden: float32 [positions, hidden_size]. `logprobs`, and `greedy`
    (whether the token is the likeliest) and `top`, (id, logprob) pairs, have one item for each token from
    `score_from` on.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True)
class Failed:
    """The whole request ended with an error."""

    error: Exception


Event = Started | Token | Cancelled | Outputs | Failed
Sink = Callable[[Event], None]
"""Takes a request's events, in order, on the engine's thread; must return at once."""

Watcher = Callable[[Request], Sink]
"""Called with each request that is submitted, for a sink that gets its events before the request's own."""
