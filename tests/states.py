"""Whole states as the bytes of their pages, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gemlet.ops.batch import Page, State, pages_for


class Keeper(Protocol):
    """The part of a decoder or executor that makes pages and states of bytes."""

    def first_needed_page(self, length: int) -> int: ...
    def join(self, pages: list[Page], local_pages: list[Page], length: int) -> State: ...
    def restore_page(self, index: int, local: bool, rows: int, data: bytes) -> Page: ...


@dataclass(frozen=True)
class Saved:
    """Rows and bytes of each page: of the global layers, and of the local ones from page `first` on."""

    length: int
    first: int
    pages: tuple[tuple[int, bytes], ...]
    local_pages: tuple[tuple[int, bytes], ...]


def save(state: State) -> Saved:
    count = pages_for(state.length)
    every, held = (
        [state.page(i, local) for i in range(start, count)]
        for local, start in ((False, 0), (True, state.first_page))
    )
    return Saved(
        state.length,
        state.first_page,
        tuple((page.rows, page.save()) for page in every),
        tuple((page.rows, page.save()) for page in held),
    )


def restore(keeper: Keeper, saved: Saved) -> State:
    pages = [keeper.restore_page(i, False, *page) for i, page in enumerate(saved.pages)]
    local_pages = [
        keeper.restore_page(i, True, *page) for i, page in enumerate(saved.local_pages, saved.first)
    ]
    return keeper.join(pages, local_pages, saved.length)
