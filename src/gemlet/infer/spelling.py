"""JSON text in which every string has one spelling.

In JSON a character of a string may also be written as `\\u` and four digits, and a slash behind a backslash.
A grammar compares keys as they are written, so that a key in another spelling would pass for a key that the
schema does not name. Characters that have no other spelling, such as U+0001, cannot be written then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

State = bool | bytes | None
"""Of JSON, whether a backslash waits for what it escapes. Before JSON, the end of the text. None without."""

_ESCAPED = re.compile(rb"(?<!\\)(?:\\\\)*\\[u/]")


class Spelling:
    """`pieces`: the bytes of each token."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        with_backslash = [(i, piece) for i, piece in enumerate(pieces) if b"\\" in piece]
        forbidden = [[i for i, piece in with_backslash if _ESCAPED.search(piece)]]
        forbidden.append([i for i, piece in with_backslash if _ESCAPED.search(b"\\" + piece)])
        forbidden[1] += [i for i, piece in enumerate(pieces) if piece[:1] in (b"u", b"/")]
        self._bits = [_without(ids, len(pieces)) for ids in forbidden]
        self._ends = {
            i: (len(piece) - len(bare)) % 2 == 1
            for i, piece in with_backslash
            if (bare := piece.rstrip(b"\\")) and bare != piece
        }
        self._only = {i: len(piece) % 2 == 1 for i, piece in with_backslash if not piece.strip(b"\\")}

    def allowed(self, state: State) -> NDArray[np.uint8] | None:
        """The tokens that may come in a state, as `Allowed` holds them; None for all."""
        return self._bits[state] if isinstance(state, bool) else None

    def after(self, state: State, token: int, begin: bytes) -> State:
        """The state behind a token. `begin`: JSON begins behind it."""
        if isinstance(state, bool):
            return state != self._only[token] if token in self._only else self._ends.get(token, False)
        if state is None:
            return None
        text = state + self._pieces[token]
        return False if begin in text else text[-len(begin) :]


def _without(ids: Sequence[int], count: int) -> NDArray[np.uint8]:
    bits = np.ones(count, np.bool_)
    bits[list(ids)] = False
    return np.packbits(bits, bitorder="little")
