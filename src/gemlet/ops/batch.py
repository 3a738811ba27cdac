"""What goes into a step and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemlet.errors import InvalidRequestError

Int32 = NDArray[np.int32]

PAGE = 64
"""Positions of a page: page i of a sequence holds [64 i, 64 i + 64), the last one perhaps fewer."""


def pages_for(positions: int) -> int:
    """Pages that so many positions begin."""
    return -(-positions // PAGE)


class Page(Protocol):
    """The keys and values of one page in the local layers of a sequence, or in the global ones.

    It never changes; where it can, it shares its memory with the states it came from and goes to.
    """

    @property
    def rows(self) -> int:
        """Positions written, from the page's first on."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory, whoever else shares them."""

    def save(self) -> bytes:
        """The page as bytes for `Decoder.restore_page`, with a checksum of content and place."""


class State(Protocol):
    """The keys and values of one sequence. Made and understood by one executor only."""

    @property
    def length(self) -> int:
        """Positions taken in so far; the next token's position."""

    @property
    def nbytes(self) -> int:
        """Bytes held now."""

    def copy(self) -> State:
        """An independent state with the same content."""

    def trim(self, length: int) -> None:
        """Forget every position from `length` on. StateError when that is further back than what is kept."""

    @property
    def first_page(self) -> int:
        """The first page that every local layer still holds; the global ones hold all."""

    def page(self, index: int, local: bool) -> Page:
        """What the local, or the global, layers hold of a page. StateError where they do not."""


class Adapter(Protocol):
    """What is added to some products of the rows of a state. Made and understood by one executor only."""

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""


@dataclass(frozen=True)
class Batch:
    """The rows of one step. The rows of a state are contiguous and continue it where it stands.

    ids: int32 [R] token ids. positions: int32 [R]. states: the sequences, each once. rows: rows per state.
    logits, hidden: int32 row numbers (any order) whose logits, or final normed hidden state, are wanted.
    adapters: that of each state, None for the model itself; empty when no state has one.
    top: when not 0, no more than that many largest logits of each row are needed.
    allowed: of each row of logits the ids that the largest are chosen among, uint8 [vocab / 8 rounded up], id
    i at bit i % 8 of byte i // 8; None for all. Empty when every row has all.
    Raises InvalidRequestError for anything else.
    """

    ids: Int32
    positions: Int32
    states: tuple[State, ...]
    rows: tuple[int, ...]
    logits: Int32
    hidden: Int32
    adapters: tuple[Adapter | None, ...] = ()
    top: int = 0
    allowed: tuple[NDArray[np.uint8] | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ids", "positions", "logits", "hidden"):
            _check_vector(name, getattr(self, name))
        count = len(self.ids)
        if len(self.positions) != count:
            raise InvalidRequestError(f"batch: {count} ids but {len(self.positions)} positions")
        if len(self.rows) != len(self.states) or sum(self.rows) != count or min(self.rows, default=0) < 1:
            raise InvalidRequestError(
                f"batch: {count} ids do not divide into rows {self.rows} of {len(self.states)} states"
            )
        if self.adapters and len(self.adapters) != len(self.states):
            raise InvalidRequestError(f"batch: {len(self.adapters)} adapters for {len(self.states)} states")
        if len({id(state) for state in self.states}) != len(self.states):
            raise InvalidRequestError("batch: a state occurs twice")
        expected = [np.arange(s.length, s.length + n) for s, n in zip(self.states, self.rows, strict=True)]
        if not np.array_equal(self.positions, np.concatenate(expected)):
            raise InvalidRequestError("batch: positions do not continue the states")
        for name in ("logits", "hidden"):
            _check_range(name, getattr(self, name), count)
        if self.top < 0:
            raise InvalidRequestError(f"batch: top is {self.top}")
        if self.allowed and (len(self.allowed) != len(self.logits) or not self.top):
            raise InvalidRequestError(f"batch: {len(self.allowed)} sets of ids for {len(self.logits)} rows")

    def check_ids(self, vocab_size: int) -> None:
        """InvalidRequestError unless every id has a row in the embedding."""
        _check_range("ids", self.ids, vocab_size)

    @classmethod
    def of(
        cls,
        parts: Sequence[tuple[State, ArrayLike]],
        *,
        logits: Literal["last", "all", "none"] = "last",
        hidden: Literal["last", "all", "none"] = "none",
        adapters: Sequence[Adapter | None] = (),
    ) -> Batch:
        """The batch that feeds each state its ids, asking for the last row of each, all rows, or none."""
        if not parts:
            raise InvalidRequestError("batch: it is empty")
        pieces = [np.asarray(ids, dtype=np.int32) for _, ids in parts]
        rows = tuple(len(piece) for piece in pieces)
        starts = (
            np.arange(s.length, s.length + n, dtype=np.int32) for (s, _), n in zip(parts, rows, strict=True)
        )
        wanted = {
            "last": np.cumsum(rows, dtype=np.int32) - np.int32(1),
            "all": np.arange(sum(rows), dtype=np.int32),
            "none": np.zeros(0, dtype=np.int32),
        }
        states = tuple(state for state, _ in parts)
        return cls(
            np.concatenate(pieces),
            np.concatenate(list(starts)),
            states,
            rows,
            wanted[logits],
            wanted[hidden],
            tuple(adapters),
        )


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest logits of a row: int32 ids and float32 values, descending, equal values by ascending id.

    Fewer than were asked for where fewer ids are allowed. A logit that is not finite stands in all places.
    """

    ids: Int32
    values: NDArray[np.float32]


@dataclass(frozen=True)
class StepOutput:
    """Results of a step, in the order the batch asked.

    logits: float32 [n, vocab]. hidden: float32 [m, hidden_size]. largest: instead of logits, when the batch
    asked for no more and the executor saves by it.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    largest: tuple[Largest, ...] | None = None

    @property
    def rows(self) -> Sequence[NDArray[np.float32] | Largest]:
        """One entry for each row whose logits were asked for."""
        return list(self.logits) if self.largest is None else self.largest


def _check_vector(name: str, value: object) -> None:
    if (
        not isinstance(value, np.ndarray)
        or value.dtype != np.int32
        or value.ndim != 1
        or not value.flags.c_contiguous
    ):
        raise InvalidRequestError(f"batch: {name} must be a contiguous one-dimensional int32 array")


def _check_range(name: str, values: Int32, limit: int) -> None:
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < limit:
        raise InvalidRequestError(
            f"batch: {name} reach from {values.min()} to {values.max()}, allowed are 0 to {limit - 1}"
        )
