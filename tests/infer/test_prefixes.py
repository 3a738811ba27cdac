"""Which pages are found, shared and dropped."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gemlet.infer.prefixes import Place, Prefixes
from gemlet.ops.batch import PAGE
from tests.infer.fakes import FakeDecoder, FakeState

HALF = 8 * PAGE  # bytes of one half of a fake page
DECODER = FakeDecoder()


def make(limit: int = 2**20, shortest: int = 2) -> Prefixes:
    return Prefixes(DECODER, limit, shortest)


def read(prefixes: Prefixes, ids, end: bool = True) -> None:
    """As a request does that reads these ids in steps of 50."""
    place, state = Place(), FakeState()
    for start in range(0, len(ids), 50):
        state = FakeState(tuple(ids[: start + 50]), min(len(ids), start + 50))
        prefixes.register(place, ids, state)
    prefixes.register(place, ids, state, end=end)


def found(prefixes: Prefixes, ids, most: int | None = None) -> int:
    """Length of the state that is found, whose content is checked."""
    state = prefixes.find(Place(), ids, len(ids) if most is None else most).state
    if state is None:
        return 0
    assert state.ids == tuple(ids[: state.length])
    return state.length


def test_every_beginning_is_found():
    prefixes, ids = make(), list(range(300))
    read(prefixes, ids)
    for length in range(2, 301):
        assert found(prefixes, ids, length) == length
        assert found(prefixes, [*ids[:length], 999, 998]) == length
    assert found(prefixes, [5, *ids]) == 0
    assert found(prefixes, ids, 1) == 0  # too short to be worth it


def test_the_longest_of_several_is_found():
    prefixes = make()
    base = list(range(100))
    for tail in ([1] * 60, [1] * 20 + [2] * 60, [3] * 5):
        read(prefixes, base + tail)
    assert found(prefixes, base + [1] * 30) == 130
    assert found(prefixes, base + [1] * 20 + [2] * 9 + [9]) == 129
    assert found(prefixes, base + [3] * 9) == 105
    assert found(prefixes, [*base, 4]) == 100


def test_reasons():
    prefixes = make()
    assert prefixes.find(Place(), (1, 2, 3), 2).reason == "no earlier request shares the beginning"
    read(prefixes, [1, 2, 3])
    assert prefixes.find(Place(), (1, 2, 3), 2).reason is None
    assert prefixes.find(Place(), (1, 9, 9), 3).reason == "no earlier request shares the beginning"
    assert make(limit=0).find(Place(), (1, 2), 1).reason == "prefix reuse is switched off"


def test_a_longer_page_takes_the_place_of_a_beginning_of_it():
    prefixes = make()
    read(prefixes, [1, 2, 3])
    read(prefixes, [1, 2, 3, 4, 5])
    assert prefixes.nbytes == 2 * HALF
    read(prefixes, [1, 2, 3, 4])  # covered already
    assert prefixes.nbytes == 2 * HALF
    read(prefixes, [1, 2, 3, 4, 5, *range(70)])
    assert prefixes.nbytes == 4 * HALF
    read(prefixes, [1, 2, 3, 4, 6])
    assert prefixes.nbytes == 6 * HALF
    assert found(prefixes, [1, 2, 3, 4, 6, 7]) == 5


def test_what_is_found_is_not_changed_by_who_found_it():
    prefixes = make()
    read(prefixes, [1, 2, 3])
    prefixes.find(Place(), (1, 2, 3, 4), 3).state.trim(0)
    assert found(prefixes, (1, 2, 3, 4), 3) == 3


def test_the_leaf_not_used_for_longest_goes_first():
    prefixes = make(limit=6 * HALF)
    for first in (1, 2, 3):
        read(prefixes, [first, first])
    assert found(prefixes, [1, 1, 1], 2) == 2  # used: 2 is now the oldest
    read(prefixes, [4, 4])
    assert prefixes.nbytes == 6 * HALF
    assert [found(prefixes, [i, i, i], 2) for i in (1, 2, 3, 4)] == [2, 0, 2, 2]


def test_local_halves_that_nobody_needs_go_before_younger_pages():
    """A sequence of 16 pages needs 16 global halves, but local ones only of the last two or three."""
    ids = list(range(16 * PAGE))
    prefixes = make(limit=22 * HALF)
    read(prefixes, ids)
    assert prefixes.nbytes <= 22 * HALF
    assert found(prefixes, [*ids, 1]) == 16 * PAGE  # the end can be gone on from
    assert found(prefixes, ids, 5 * PAGE) == 0
    miss = prefixes.find(Place(), ids, 5 * PAGE)
    assert miss.reason == f"of {5 * PAGE} shared tokens the local layers keep too little"


def test_a_fork_falls_back_to_the_last_boundary_that_is_complete():
    prefixes, ids = make(limit=23 * HALF), list(range(16 * PAGE))
    read(prefixes, ids[: 14 * PAGE])
    shorter = found(prefixes, ids[: 14 * PAGE])
    assert shorter == 14 * PAGE
    read(prefixes, ids)
    assert found(prefixes, [*ids[: 15 * PAGE + 20], *[7] * 50]) in range(14 * PAGE, 15 * PAGE + 21)


def test_a_sequence_too_long_for_the_limit_keeps_its_beginning():
    prefixes, ids = make(limit=10 * HALF), list(range(40 * PAGE))
    read(prefixes, ids)
    assert prefixes.nbytes <= 10 * HALF
    read(prefixes, [5] * 100)
    assert found(prefixes, [5] * 100) == 100


@pytest.mark.parametrize("seed", range(8))
def test_random_histories(seed):
    """What is found is always right, memory is bounded, and everything is let go of at the end."""
    rng = random.Random(seed)
    limit = rng.choice([3, 9, 40, 10**6]) * HALF
    prefixes = make(limit)
    texts = [[rng.randrange(3) for _ in range(rng.randrange(1, 700))] for _ in range(5)]
    hits = 0
    for _ in range(150):
        ids = rng.choice(texts)[: rng.randrange(1, 700)] + [
            rng.randrange(3) for _ in range(rng.randrange(90))
        ]
        length = found(prefixes, ids, rng.randrange(len(ids) + 1))
        hits += length > 0
        place, state = Place(), FakeState(tuple(ids[:length]))
        while state.length < len(ids) and rng.random() < 0.95:
            state = FakeState(tuple(ids[: state.length + rng.randrange(1, 120)]), state.length)
            prefixes.register(place, ids, state)
        prefixes.register(place, ids, state, end=True)
        assert 0 <= prefixes.nbytes <= limit
        check(prefixes)
    assert hits
    prefixes.close()
    assert prefixes.nbytes == 0 and not prefixes._roots and not prefixes._local_order


def check(prefixes: Prefixes) -> None:
    """The tree and its orders agree, and the bytes are counted."""
    nodes = list(prefixes._order)
    reached, todo = [], list(prefixes._roots.values())
    while todo:
        children = list(todo.pop().children.values())
        reached += children
        todo += children
    assert set(reached) == set(nodes) and len(reached) == len(nodes)
    local = [node for node in nodes if node.local_page is not None]
    assert set(prefixes._local_order) == set(local)
    assert prefixes.nbytes == HALF * (len(nodes) + len(local))
    assert all(a.used <= b.used for a, b in pairwise(nodes))
    place = {node: i for i, node in enumerate(nodes)}
    assert all(place[child] < place[node] for node in nodes for child in node.children.values())
