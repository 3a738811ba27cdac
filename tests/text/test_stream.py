"""Streams of text: together what decoding gives, never half a character, never part of a stop string."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlet.errors import InvalidRequestError
from gemlet.text.stream import TextStream
from tests.text.vocabularies import SIZE, tiny

any_ids = st.lists(
    st.one_of(
        st.integers(0, SIZE - 1),
        st.integers(238, 493),  # bytes
        st.sampled_from([238 + byte for byte in "é日😩".encode()]),
        st.sampled_from([0, 1, 2, 3, 105, 106, 107, 138]),
    ),
    max_size=40,
)
few_letters = st.text("ab\n ", min_size=1, max_size=5)


def first_stop(text: str, stop: Sequence[str]) -> tuple[int, str | None]:
    """Where text must end, by trying every prefix: the first one that ends with a stop string."""
    for end in range(1, len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return len(text), None


@given(any_ids)
def test_pieces_together_are_the_decoded_text(ids: list[int]) -> None:
    stream = TextStream(tiny())
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(pieces) == tiny().decode(ids)
    assert stream.stopped is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\ufffd")))
def test_a_character_comes_whole(text: str) -> None:
    stream = TextStream(tiny())
    pieces = [stream.push(i) for i in tiny().encode(text)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert stream.finish() == ""


@given(st.text("ab\n ", max_size=40), st.lists(few_letters, max_size=4), st.booleans())
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str], by_character: bool) -> None:
    stream = TextStream(tiny(), stop)
    parts = list(text) if by_character else [text]
    pieces = [stream.push(i) for part in parts for i in tiny().encode(part)] + [stream.finish()]
    end, found = first_stop(text, stop)
    assert ("".join(pieces), stream.stopped) == (text[:end], found)


def test_every_pair_of_short_stop_strings_in_every_short_text() -> None:
    ids = {letter: tiny().encode(letter) for letter in "ab"}
    texts = ["".join(letters) for letters in itertools.product("ab", repeat=6)]
    stops = ["".join(letters) for n in (1, 2, 3, 4) for letters in itertools.product("ab", repeat=n)]
    for stop in itertools.combinations(stops, 2):
        for text in texts:
            stream = TextStream(tiny(), stop)
            shown = "".join(stream.push(i) for letter in text for i in ids[letter]) + stream.finish()
            end, found = first_stop(text, stop)
            assert (shown, stream.stopped) == (text[:end], found)


@given(any_ids, st.lists(st.text("aé日\ufffd ", min_size=1, max_size=3), max_size=3))
def test_stop_strings_among_any_tokens(ids: list[int], stop: list[str]) -> None:
    stream = TextStream(tiny(), stop)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    end, found = first_stop(tiny().decode(ids), stop)
    assert ("".join(pieces), stream.stopped) == (tiny().decode(ids)[:end], found)


@given(st.text("ab\n ", max_size=30), st.lists(few_letters, min_size=1, max_size=3))
def test_nothing_is_held_back_longer_than_needed(text: str, stop: list[str]) -> None:
    stream = TextStream(tiny(), stop)
    shown = ""
    for count, character in enumerate(text, 1):
        for i in tiny().encode(character):
            shown += stream.push(i)
        if stream.stopped:
            return
        held = text[len(shown) : count]
        assert held == "" or any(s.startswith(held) for s in stop)


def test_a_stop_string_over_several_tokens() -> None:
    stream = TextStream(tiny(), ["</answer>", "never"])
    pieces = [stream.push(i) for i in tiny().encode("42 < 43</answer> and more")]
    assert "".join(pieces) == "42 < 43"
    assert stream.stopped == "</answer>"
    assert stream.push(tiny().encode("x")[0]) == ""
    assert stream.finish() == ""


def test_control_tokens_have_no_text() -> None:
    stream = TextStream(tiny())
    assert [stream.push(i) for i in (2, 105, 106, 1)] == [""] * 4
    assert stream.finish() == ""


def test_an_unfinished_character_ends_as_decoded() -> None:
    stream = TextStream(tiny())
    assert [stream.push(238 + byte) for byte in "😩".encode()[:3]] == [""] * 3
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("stop", ["text", [""], ["a", 3], [None]])
def test_stop_strings_are_checked(stop: object) -> None:
    with pytest.raises(InvalidRequestError, match="stop"):
        TextStream(tiny(), stop)  # type: ignore[arg-type]


def test_a_token_costs_the_same_however_long_the_text() -> None:
    ids = tiny().encode("the sea is blue " * 10)

    def seconds(stream: TextStream, rounds: int) -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            for i in ids:
                stream.push(i)
        return time.perf_counter() - start

    stream = TextStream(tiny(), ["the end", "\n\n"])
    early = min(seconds(stream, 20) for _ in range(5))
    seconds(stream, 2000)
    late = min(seconds(stream, 20) for _ in range(5))
    assert late < 5 * early  # decoding all again would make it a hundred times as slow
