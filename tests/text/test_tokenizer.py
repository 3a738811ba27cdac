"""Encoding and decoding: exact round trips, text that stays text, long texts in bounded time."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from gemlet.errors import InvalidRequestError, TextError
from gemlet.text.pieces import Field
from gemlet.text.protobuf import bytes_field, float_field
from gemlet.text.tokenizer import Tokenizer
from tests.synthetic_tokenizer import TURNS, tiny_tokenizer
from tests.text.vocabularies import SIZE, SPACE, tiny

anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE))
hostile = st.lists(
    st.one_of(
        anything,
        st.sampled_from(["\n", "\t", " ", "  ", "\r\n", "\0", "\x1b", "\ufeff", "\ufffd", "<0x41>", "<unk>"]),
        st.sampled_from([*TURNS, "<table>", "</table>", "<bos>", "<unused7>", "<image_soft_token>"]),
    )
).map("".join)


def every_character() -> str:
    """All of Unicode but surrogates and U+2581, in order."""
    return "".join(chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000 and chr(i) != SPACE)


@given(hostile)
def test_a_round_trip_is_exact_and_free_of_control_tokens(text: str) -> None:
    ids = tiny().encode(text)
    assert tiny().decode(ids) == text
    assert not any(tiny().is_control(i) for i in ids)


def test_every_character_survives() -> None:
    assert tiny().decode(tiny().encode(every_character())) == every_character()


def test_the_one_exception_is_the_character_that_spells_a_space() -> None:
    assert tiny().decode(tiny().encode(f"a{SPACE}b")) == "a b"


def test_one_bos_when_asked_for() -> None:
    assert tiny().encode("", bos=True) == [2]
    assert tiny().encode("the sea", bos=True) == [2, *tiny().encode("the sea")]
    assert 2 not in tiny().encode("<bos>the sea")


def test_no_space_is_put_before_a_text() -> None:
    assert tiny().decode(tiny().encode("x")) == "x"
    assert tiny().decode(tiny().encode(" x")) == " x"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("\n" * 31, [137]),
        ("\n" * 32, [137, 107]),
        (" " * 31, [167]),
        (" " * 2, [138]),
        ("<table>", [168]),
        ("a</table>\n\n", None),
    ],
)
def test_user_defined_pieces_are_found_whole(text: str, ids: list[int] | None) -> None:
    if ids is None:
        table = next(i for i in range(168, 238) if tiny().piece(i) == b"</table>")
        ids = [*tiny().encode("a"), table, 108]
    assert tiny().encode(text) == ids


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\udc80x"])
def test_half_of_a_surrogate_pair_is_refused_with_its_place(text: str) -> None:
    place = next(i for i, character in enumerate(text) if 0xD800 <= ord(character) < 0xE000)
    with pytest.raises(TextError, match=f"character {place} is U\\+{ord(text[place]):04X}"):
        tiny().encode(text)


def test_pieces_are_the_bytes_of_tokens() -> None:
    assert tiny().piece(238 + 0xE2) == b"\xe2"
    assert tiny().piece(138) == b"  "
    assert tiny().piece(2) == tiny().piece(3) == tiny().piece(105) == b""
    text = "Les nuits d'été, 日本語 😩"
    assert b"".join(map(tiny().piece, tiny().encode(text))) == text.encode()


def test_incomplete_characters_become_the_replacement_character() -> None:
    assert tiny().decode([238 + 0xE2, 238 + 0x82]) == "\ufffd"
    assert tiny().decode([238 + 0xE2, 238 + 0x82, 238 + 0xAC]) == "€"
    assert tiny().decode([238 + 0xFF, *tiny().encode("a")]) == "\ufffda"


@pytest.mark.parametrize("token_id", [-1, SIZE, 10**12])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    for call in (tiny().piece, tiny().is_control, lambda i: tiny().decode([5, i])):
        with pytest.raises(InvalidRequestError, match=str(token_id)):
            call(token_id)


def test_control_tokens_by_name() -> None:
    assert [tiny().control_id(name) for name in TURNS] == [105, 106]
    assert tiny().control_id("<table>") is None
    assert tiny().control_id("no such piece") is None


def test_long_texts_are_cut_without_changing_an_id() -> None:
    plain = sentencepiece.SentencePieceProcessor(model_proto=tiny_tokenizer(SIZE))
    text = "the sea is blue,  and\n\n\n\tthe night: clear.\n" * 3000
    for start in (0, 1, 7):
        assert tiny().encode(text[start:]) == plain.encode(text[start:])


def test_no_cut_where_a_piece_crosses_it() -> None:
    piece = bytes_field(Field.PIECE, f"e{SPACE}".encode()) + float_field(Field.SCORE, 1.0)  # merged first
    model = tiny_tokenizer(SIZE) + bytes_field(Field.PIECES, piece)
    text = "the sea blue " * 2000
    ids = Tokenizer.from_sentencepiece(model).encode(text)
    assert ids.count(SIZE) == 4000
    assert ids == sentencepiece.SentencePieceProcessor(model_proto=model).encode(text)


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, "ab" * 500_000, " " * 100_000, "\n" * 100_000, "\t" * 100_000, "\0" * 10**6, "日" * 10**5],
    ids=["a", "ab", "spaces", "newlines", "tabs", "nul", "ideographs"],
)
def test_monotonous_texts_take_bounded_time(text: str) -> None:
    start = time.perf_counter()
    ids = tiny().encode(text)
    # Two orders of magnitude above what it takes, two below what a quadratic algorithm would.
    assert time.perf_counter() - start < 20
    assert tiny().decode(ids) == text


def test_threads_get_what_one_alone_gets() -> None:
    texts = [f"{n} the sea is blue " * 500 for n in range(8)]
    alone = [tiny().encode(text) for text in texts]
    together: list[list[int]] = [[] for _ in texts]

    def encode(n: int) -> None:
        for _ in range(5):
            together[n] = Tokenizer.encode(tiny(), texts[n])

    threads = [threading.Thread(target=encode, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
