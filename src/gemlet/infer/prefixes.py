"""States of earlier requests, kept in memory so that a prompt that begins like one of them starts there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import StateError
from gemlet.ops.batch import State


@dataclass(frozen=True)
class Found:
    """A state that holds the first `state.length` tokens of a prompt; no state and the reason otherwise."""

    state: State | None
    reason: str | None = None


@dataclass(frozen=True)
class _Entry:
    root: str
    ids: NDArray[np.int32]
    state: State
    nbytes: int


class Prefixes:
    """The states used last, up to `limit` bytes; the one not used for longest goes first.

    A prefix shorter than `shortest` tokens is not reused: computing it costs less than copying a state.
    """

    def __init__(self, limit: int, shortest: int = 16) -> None:
        self._limit = limit
        self._shortest = shortest
        self._entries: list[_Entry] = []  # the one used last is at the end

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(entry.nbytes for entry in self._entries)

    def keep(self, ids: Sequence[int], state: State, root: str = "") -> None:
        """Take over a state that has read exactly these ids. The caller must not use it any more.

        `root`: what the state depends on besides its ids; only a request with the same finds it.
        """
        entry = _Entry(root, np.asarray(ids, np.int32), state, state.nbytes)
        self._entries = [
            other for other in self._entries if other.root != root or not np.array_equal(other.ids, entry.ids)
        ]
        if entry.nbytes <= self._limit:
            self._entries.append(entry)
        while self.nbytes > self._limit:
            del self._entries[0]

    def find(self, ids: Sequence[int], most: int, root: str = "") -> Found:
        """A copy of the state with the longest prefix in common, cut to it and to `most` tokens."""
        if self._limit == 0:
            return Found(None, "prefix reuse is switched off")
        wanted = np.asarray(ids[:most], np.int32)
        shared = sorted(
            ((_common(wanted, e.ids), i) for i, e in enumerate(self._entries) if e.root == root), reverse=True
        )
        for length, i in shared:
            if length < self._shortest:
                break
            state = self._entries[i].state.copy()
            try:
                state.trim(length)
            except StateError:
                continue
            self._entries.append(self._entries.pop(i))
            return Found(state)
        longest = shared[0][0] if shared else 0
        if longest < self._shortest:
            return Found(None, "no earlier request shares the beginning")
        return Found(None, f"of {longest} shared tokens the local layers keep too little")


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Length of the longest common prefix."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
