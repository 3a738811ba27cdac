"""Pages of earlier requests, kept so that a prompt that begins like one of them starts where they part.

A tree: a node holds the keys and values of up to 64 positions behind its parent's, and is found by the key of
a `Chain`. A prompt takes the pages on its way and shares their memory; a page is copied only when it is
written to. Complete pages come in after each step, so a prompt finds what another one is still reading; the
last, partly filled page of a request comes in at its end. Global layers need every page before a position,
local layers only those that their window still sees, so the two halves of a node are kept apart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gemlet.errors import StateError
from gemlet.infer.cache import Chain, PageFiles, id_bytes
from gemlet.ops.batch import PAGE, Page, State, pages_for

SHORTEST_ON_DISK = 256
"""Tokens of the shortest prompt whose pages are written: reading a shorter one again takes little time."""


class PageJoiner(Protocol):
    """The part of a decoder that makes states of pages, and pages of bytes."""

    def first_needed_page(self, length: int) -> int: ...
    def join(self, pages: Sequence[Page], local_pages: Sequence[Page], length: int) -> State: ...
    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> Page: ...


@dataclass(frozen=True)
class Found:
    """A state that holds the first `state.length` tokens of a prompt; no state and the reason otherwise."""

    state: State | None
    reason: str | None = None


class Place:
    """Where a sequence is in the tree. `root`: everything besides the ids that changes bits; sequences of
    different roots share nothing. `prompt`: tokens of its prompt, whose pages may go to disk. `kept` false:
    it takes no pages and leaves none.
    """

    def __init__(self, root: bytes = b"", prompt: int = 0, kept: bool = True) -> None:
        self.chain = Chain(root)
        self.kept = kept
        self.written = prompt // PAGE if prompt >= SHORTEST_ON_DISK else 0
        self.at = time.time_ns()
        self.pages: int | None = None  # complete ones that have come in; None before the first look


@dataclass(eq=False)
class _Node:
    """`used`, `local_used`: when a request last needed the global half, `page`, and the local half."""

    parent: _Node | None  # None, as `page`, for a root only
    key: bytes
    ids: tuple[int, ...]
    page: Page | None
    local_page: Page | None = None
    children: dict[bytes, _Node] = field(default_factory=dict)
    used: int = 0
    local_used: int = 0
    on_disk: bool = False


@dataclass
class _Way:
    """The nodes that begin like a prompt, keys of further pages on disk, and the tokens shared with both."""

    nodes: list[_Node]
    stored: list[bytes]
    shared: int

    def resumable(self, joiner: PageJoiner) -> int:
        """The longest length up to `shared` whose local pages are in memory or on disk; else 0."""
        held = [node.local_page is not None or node.on_disk for node in self.nodes]
        held += [True] * len(self.stored)
        lengths: list[int] = [self.shared, *range(self.shared // PAGE * PAGE, 0, -PAGE)]
        for length in lengths:
            if all(held[joiner.first_needed_page(length) : pages_for(length)]):
                return length
        return 0


class Prefixes:
    """Pages of up to `limit` bytes in memory and, with `files`, more on disk. For one thread.

    When they are too many, what no request has needed for longest goes: a leaf, or the local half of an
    inner page. `nbytes` counts each page once, whether or not running states share it: memory is at most
    `limit`, the price of what runs, and what waits to be written. A prefix shorter than `shortest` tokens is
    not reused.
    """

    def __init__(
        self, joiner: PageJoiner, limit: int, shortest: int = 16, files: PageFiles | None = None
    ) -> None:
        self._joiner = joiner
        self._limit = limit
        self._shortest = shortest
        self._files = files if limit else None
        self._roots: dict[bytes, _Node] = {}
        # Both begin with what was not needed for longest. Who needs a page needs those before it: children
        # stand before their parents.
        self._order: OrderedDict[_Node, None] = OrderedDict()
        self._local_order: OrderedDict[_Node, None] = OrderedDict()
        self._clock = 0
        self.nbytes = 0

    @property
    def off(self) -> bool:
        """Whether nothing is kept."""
        return not self._limit

    def register(self, place: Place, ids: Sequence[int], state: State, end: bool = False) -> None:
        """Take in the pages that a state has completed; at its end the last one as well, as far as it goes.

        `ids` begin with the tokens that the state has read.
        """
        length = state.length if end else state.length // PAGE * PAGE
        seen = length // PAGE == place.pages and length % PAGE == 0
        if not (self._limit and place.kept and length) or seen:
            return
        place.pages = length // PAGE
        node, nodes = self._root(place), []
        for index in range(pages_for(length)):
            span = slice(index * PAGE, min((index + 1) * PAGE, length))
            if index < place.pages:
                key = place.chain.key(index, ids)
                known = node.children.get(key)
            else:
                key = id_bytes(ids[span])
                known = _beginning_with(tuple(ids[span]), node)
            node = known or self._add(node, key, tuple(ids[span]), state.page(index, False))
            if node.local_page is None and index >= state.first_page:
                self._set_local(node, state.page(index, True))
            nodes.append(node)
        self._touch(nodes, self._joiner.first_needed_page(length))
        self._write(nodes[: place.written], place.at)
        self._evict()

    def find(self, place: Place, ids: Sequence[int], most: int) -> Found:
        """A state of the longest beginning of `ids` that can be gone on from, of at most `most` tokens."""
        if not self._limit:
            return Found(None, "prefix reuse is switched off")
        if not place.kept:
            return Found(None, "the request asked for no prefix reuse")
        while True:
            way = self._look(place.chain, ids, most)
            if way.shared < self._shortest:
                return Found(None, "no earlier request shares the beginning")
            length = way.resumable(self._joiner)
            if length < self._shortest:
                return Found(None, f"of {way.shared} shared tokens the local layers keep too little")
            try:
                nodes = self._load(place, way, ids, length)
            except StateError:  # of a file, which counts as gone from now on
                continue
            return Found(self._join(place, nodes, length))

    def longer(self, place: Place, ids: Sequence[int], most: int, length: int) -> bool:
        """Whether memory has come to hold a longer beginning than `length` tokens."""
        node, index = self._roots.get(place.chain.root) if place.kept else None, 0
        while node is not None and (index + 1) * PAGE <= most:
            node, index = node.children.get(place.chain.key(index, ids)), index + 1
            if node is not None and index * PAGE > length:
                return True
        return False

    def close(self) -> None:
        """Let go of everything; what waits to be written is written, within a limit of time."""
        if self._files is not None:
            self._files.close()
        self._limit = 0
        self._evict()

    def _look(self, chain: Chain, ids: Sequence[int], most: int) -> _Way:
        node, way = self._roots.get(chain.root), _Way([], [], 0)
        complete = most // PAGE
        while node is not None and len(way.nodes) < complete:
            child = node.children.get(chain.key(len(way.nodes), ids))
            if child is None:
                break
            way.nodes.append(child)
            node = child
        count = len(way.nodes)
        while self._files is not None and count < complete and self._files.has(key := chain.key(count, ids)):
            way.stored.append(key)
            count += 1
        way.shared = count * PAGE
        if node is not None and not way.stored:
            rest = tuple(ids[way.shared : min(most, way.shared + PAGE)])
            children = [(_common(child.ids, rest), child) for child in node.children.values()]
            common, best = max(children, key=lambda c: (c[0], c[1].local_used), default=(0, node))
            if common:
                way.nodes.append(best)
                way.shared += common
        return way

    def _load(self, place: Place, way: _Way, ids: Sequence[int], length: int) -> list[_Node]:
        """The nodes of the way's first `length` tokens, with all that a state of them needs.

        StateError when a file turns out to be no good.
        """
        first_local, known = self._joiner.first_needed_page(length), len(way.nodes)
        nodes = way.nodes[: pages_for(length)]
        for index in range(pages_for(length)):
            if index >= known:
                key = way.stored[index - known]
                page = self._read(key, index, local=False)
                parent = nodes[-1] if nodes else self._root(place)
                nodes.append(self._add(parent, key, tuple(ids[index * PAGE : (index + 1) * PAGE]), page))
                nodes[-1].on_disk = True
            if index >= first_local and nodes[index].local_page is None:
                nodes[index].on_disk = False  # unless it can be read
                self._set_local(nodes[index], self._read(nodes[index].key, index, local=True))
                nodes[index].on_disk = True
        return nodes

    def _join(self, place: Place, nodes: list[_Node], length: int) -> State:
        first_local = self._joiner.first_needed_page(length)
        pages = [node.page for node in nodes if node.page is not None]
        local_pages = [node.local_page for node in nodes[first_local:] if node.local_page is not None]
        state = self._joiner.join(pages, local_pages, length)
        self._touch(nodes, first_local)
        if self._files is not None and place.written:
            self._files.used([node.key for node in nodes if node.on_disk])
        self._evict()
        return state

    def _read(self, key: bytes, index: int, local: bool) -> Page:
        assert self._files is not None
        return self._files.read(self._joiner, key, index, local)

    def _write(self, nodes: Sequence[_Node], at: int) -> None:
        """Have pages written that are not on disk: in order, since none is of use without those before it."""
        if self._files is None:
            return
        for index, node in enumerate(nodes):
            if node.on_disk or self._files.has(node.key):
                node.on_disk = True
                continue
            if node.page is None or node.local_page is None:
                return
            node.on_disk = self._files.offer(node.key, index, at, node.page, node.local_page)
            if not node.on_disk:
                return

    def _root(self, place: Place) -> _Node:
        return self._roots.setdefault(place.chain.root, _Node(None, place.chain.root, (), None))

    def _add(self, parent: _Node, key: bytes, ids: tuple[int, ...], page: Page) -> _Node:
        covered = [c for c in parent.children.values() if len(c.ids) < PAGE and c.ids == ids[: len(c.ids)]]
        node = parent.children[key] = _Node(parent, key, ids, page)
        self._order[node] = None
        self.nbytes += page.nbytes
        for child in covered:  # the new page begins with all that they hold
            self._remove(child)
        return node

    def _set_local(self, node: _Node, page: Page) -> None:
        node.local_page = page
        self._local_order[node] = None
        self.nbytes += page.nbytes

    def _touch(self, nodes: Sequence[_Node], first_local: int) -> None:
        """The nodes of a way were needed, the local halves from page `first_local` on."""
        self._clock += 1
        for index in reversed(range(len(nodes))):
            node = nodes[index]
            node.used = self._clock
            self._order.move_to_end(node)
            if index >= first_local and node.local_page is not None:
                node.local_used = self._clock
                self._local_order.move_to_end(node)

    def _evict(self) -> None:
        while self.nbytes > self._limit and self._order:
            leaf = next(node for node in self._order if not node.children)
            oldest = next(iter(self._local_order), leaf)
            if oldest.children and oldest.local_used <= leaf.used:
                self._drop_local(oldest)
            else:
                self._remove(leaf if oldest.children or oldest.local_used > leaf.used else oldest)

    def _drop_local(self, node: _Node) -> None:
        if node.local_page is not None:
            self.nbytes -= node.local_page.nbytes
            node.local_page = None
            del self._local_order[node]

    def _remove(self, node: _Node) -> None:
        assert node.parent is not None and node.page is not None
        self._drop_local(node)
        self.nbytes -= node.page.nbytes
        del self._order[node], node.parent.children[node.key]
        if node.parent.parent is None and not node.parent.children:
            del self._roots[node.parent.key]


def _beginning_with(ids: tuple[int, ...], parent: _Node) -> _Node | None:
    """A child that holds what a page of these ids would."""
    for child in parent.children.values():
        if child.ids[: len(ids)] == ids and (child.local_page is not None or len(child.ids) == len(ids)):
            return child
    return None


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the longest common beginning."""
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return index
    return min(len(a), len(b))
