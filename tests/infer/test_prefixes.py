"""Kept states: the longest usable prefix is found, memory is bounded, and what is handed out is a copy."""

from __future__ import annotations

from gemlet.infer.prefixes import Prefixes
from tests.infer.fakes import SLACK, FakeState


def keep(prefixes: Prefixes, *ids: int) -> None:
    prefixes.keep(ids, FakeState(ids))


def test_the_longest_shared_prefix_is_found_and_cut():
    prefixes = Prefixes(10_000, shortest=2)
    keep(prefixes, 1, 2, 3)
    keep(prefixes, 1, 2, 3, 4, 5)
    keep(prefixes, 9, 9)
    assert prefixes.find((1, 2, 3, 4, 7), 5).state.ids == (1, 2, 3, 4)
    assert prefixes.find((1, 2, 3, 4, 5), 4).state.ids == (1, 2, 3, 4)  # one token is left to compute
    assert prefixes.find((1, 2, 3, 4, 5, 6), 5).state.ids == (1, 2, 3, 4, 5)
    assert prefixes.find((1, 8), 1).state is None  # too short to be worth a copy


def test_a_state_that_cannot_go_back_gives_way_to_a_shorter_one():
    prefixes = Prefixes(10_000, shortest=2)
    long = tuple(range(SLACK + 10))
    keep(prefixes, *long[:5])
    keep(prefixes, *long)
    assert prefixes.find((*long[:6], 99, 99), 8).state.ids == long[:5]
    keep(prefixes, *long[:5])  # the same again replaces it
    assert prefixes.nbytes == 16 * (5 + len(long))


def test_reasons():
    prefixes = Prefixes(10_000, shortest=2)
    assert prefixes.find((1, 2, 3), 2).reason == "no earlier request shares the beginning"
    keep(prefixes, *range(SLACK + 10))
    found = prefixes.find((0, 1, 2, 99), 3)
    assert found.state is None
    assert found.reason == "of 3 shared tokens the local layers keep too little"
    assert Prefixes(0).find((1, 2), 1).reason == "prefix reuse is switched off"


def test_what_is_found_is_a_copy():
    prefixes = Prefixes(10_000, shortest=2)
    keep(prefixes, 1, 2, 3)
    prefixes.find((1, 2, 3, 4), 3).state.trim(0)
    assert prefixes.find((1, 2, 3, 4), 3).state.ids == (1, 2, 3)


def test_the_one_not_used_for_longest_goes_first():
    prefixes = Prefixes(16 * 6, shortest=2)
    keep(prefixes, 1, 1)
    keep(prefixes, 2, 2)
    keep(prefixes, 3, 3)
    assert prefixes.find((1, 1, 1), 2).state is not None  # used: 2 is now the oldest
    keep(prefixes, 4, 4)
    assert prefixes.nbytes == 16 * 6
    assert [prefixes.find((i, i, i), 2).state is not None for i in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_state_above_the_limit_is_not_kept():
    prefixes = Prefixes(16 * 3, shortest=2)
    keep(prefixes, 1, 1)
    keep(prefixes, *range(4))
    assert prefixes.nbytes == 32
