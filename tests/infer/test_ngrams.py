"""The index of n-grams against a search of everything, and what a drafter makes of a text."""

from __future__ import annotations

import random

import pytest

from gemlet.infer.ngrams import (
    CANDIDATES,
    LONGEST,
    ORDERS,
    RESUMED,
    Acceptance,
    NgramDrafter,
    NgramIndex,
    everywhere,
    kind,
)


def indexed(ids):
    index = NgramIndex()
    for _ in ids:
        index.push(ids)
    return index


def common(ids, place):
    """Tokens before `place` that are those at the end."""
    length = 0
    while length < min(place, LONGEST) and ids[place - 1 - length] == ids[-1 - length]:
        length += 1
    return length


@pytest.mark.parametrize("seed", range(20))
def test_finds_the_longest_of_the_latest_places(seed):
    rng = random.Random(seed)
    ids = []
    for _ in range(150):
        ids.append(rng.randrange(6))
        if rng.random() < 0.1:
            start = rng.randrange(len(ids))
            ids += ids[start : start + rng.randint(1, 12)]
    for end in range(1, len(ids), 7):
        text = ids[:end]
        place, length = indexed(text).find(text)
        for order in ORDERS:
            places = [p for p in range(end - 1, 0, -1) if common(text, p) >= order][:CANDIDATES]
            if places:
                assert length == max(common(text, p) for p in places)
                assert place == max(p for p in places if common(text, p) == length)
                break
        else:
            assert (place, length) == (0, 0)


def test_a_place_near_the_one_that_was_left_wins_among_equals():
    text = [1, 9, 2, 3, 9, 4, 5, 9, 6, 7, 9]
    index = indexed(text)
    assert index.find(text) == (8, 1)
    assert index.find(text, left=3) == (5, 1)
    assert index.find(text, left=6) == (8, 1)


def test_a_longer_match_wins_over_a_near_one():
    text = [1, 2, 3, 9, 4, 5, 9, 6, 2, 3, 9]
    assert indexed(text).find(text, left=6) == (4, 3)


def drafter(prompt, said, everywhere_=None):
    made = NgramDrafter(len(prompt), everywhere_ or everywhere())
    for end in range(len(said) + 1):
        made.read([*prompt, *said[:end]])
    return made


def test_a_repetition_goes_on_with_itself():
    made = drafter([7, 8], [1, 2, 3, 1, 2, 3, 1])
    assert made.draft([7, 8, 1, 2, 3, 1, 2, 3, 1], 7) == [2, 3, 1, 2, 3, 1, 2]


def test_a_changed_token_is_passed_over():
    prompt = list(range(100, 140))
    said = [*prompt[:20], 7]
    made = drafter(prompt, said)
    assert made.draft([*prompt, *said], 5) == prompt[21:26]
    assert made.chances(1) == [pytest.approx(everywhere()[RESUMED])]


def test_an_insertion_is_passed_over_with_the_next_token():
    prompt = [*range(100, 140), 110, 50]  # 110 stands in two places
    said = [*prompt[:10], 7, 8, 9, 110]
    made = drafter(prompt, said)
    assert made.draft([*prompt, *said], 3) == [111, 112, 113]


def test_nothing_known_nothing_drafted():
    assert drafter([1, 2, 3], [4, 5]).chances(16) == []


def test_chances_fall_with_distance_and_rise_with_experience():
    prompt = list(range(100, 200))
    fresh, tried = drafter(prompt, prompt[:6]), drafter(prompt, prompt[:90])
    for made in (fresh, tried):
        chances = made.chances(9)
        assert chances == sorted(chances, reverse=True) and 0 < chances[-1] < chances[0] < 1
    assert tried.chances(9)[-1] > fresh.chances(9)[-1]


def test_sequences_learn_from_each_other():
    shared = everywhere()
    before = shared[kind(40)]
    drafter(list(range(100, 200)), list(range(100, 200)), shared)
    assert shared[kind(40)] > before


def test_kinds():
    assert [kind(m) for m in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 500)] == [
        1,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
        7,
        7,
    ]


def test_acceptance_forgets():
    seen = Acceptance([0.5] * 8, weight=4, memory=10)
    for _ in range(100):
        seen.add(1, True)
    assert seen[1] > 0.8
    for _ in range(30):
        seen.add(1, False)
    assert seen[1] < 0.2 and seen[2] == 0.5
