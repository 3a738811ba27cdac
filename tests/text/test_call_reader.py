"""Calls found in text: however it is cut the same, nothing lost, nothing taken for a call that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlet.text.call_reader import CallReader
from gemlet.text.tools import calls_text
from gemlet.types import ToolCall

NAMES = ("time", "date")
CALL = '{"name":"time","parameters":{"zone":"UTC"}}'
READ = ("time", '{"zone":"UTC"}')


def read(pieces: Any, constrained: bool = False, **more: Any) -> tuple[str, tuple[ToolCall, ...]]:
    """The text and the calls; checks that the pieces given out amount to the calls."""
    reader = CallReader(NAMES, constrained=constrained, seed=1, **more)
    given_out = [*map(reader.push, pieces), reader.finish()]
    built: list[list[str]] = []
    for delta in (delta for piece in given_out for delta in piece.calls):
        if delta.id is not None:
            assert delta.index == len(built) and delta.name is not None and not delta.arguments
            built.append([delta.id, delta.name, ""])
        else:
            assert delta.index == len(built) - 1 and delta.arguments
            built[-1][2] += delta.arguments
    assert [ToolCall(*parts) for parts in built] == list(reader.calls)
    return "".join(piece.text for piece in given_out), reader.calls


def plain(calls: tuple[ToolCall, ...]) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(
    ("text", "left", "calls"),
    [
        ("", "", []),
        ("Hello\nthere\n", "Hello\nthere\n", []),
        (CALL, "", [READ]),
        (f"Look.\n\n {CALL}\n", "Look.", [READ]),
        (f"{CALL}\n{CALL}", "", [READ, READ]),
        (f"{CALL} {CALL}Done.", "Done.", [READ, READ]),
        (f"{CALL}\nDone.\n", "\nDone.\n", [READ]),
        (f"```json\n{CALL}\n```", "", [READ]),
        (f"```json\n{CALL}\n```\n```json\n{CALL}\n```\nDone.", "\nDone.", [READ, READ]),
        (f"```\n{CALL}\n```", "```\n```", [READ]),
        (f"```json\n[1]\n```\n{CALL}", "```json\n[1]\n```", [READ]),
        ('{\n "name" : "time",\n "arguments": {}\n}', "", [("time", "{}")]),
        ('{"name": "time"}', "", [("time", "{}")]),
        ('{"name":"time","parameters":{"a":"}\\"{","b":[{}]}}', "", [("time", '{"a":"}\\"{","b":[{}]}')]),
        ('{\n{"name":"date"}', "{", [("date", "{}")]),
    ],
)
def test_what_is_read(text: str, left: str, calls: list[tuple[str, str]]) -> None:
    for pieces in ([text], text):
        assert (read(pieces)[0], plain(read(pieces)[1])) == (left, calls)


@pytest.mark.parametrize(
    "text",
    [
        f"In a line {CALL}",
        '{"name":"moon","parameters":{}}',
        '{"name":"time","parameters":{"a":1}',
        '{"name":"time","parameters":{"a":1}]',
        '{"name":"time","parameters":{"a":1}, "x":2}',
        '{"name":"time","parameters":{"a":NaN}}',
        '{"name":"time","parameters":{a}}',
        '{"name":"time","parameters":{"a":"\n"}}',
        '{"name":"time","parameters":[1]}',
        '{"name":"time","x":{}}',
        '{"name":"ti',
        "```json\n",
        "```\n \n",
        " \n\n ",
        '{"name":"time","parameters":{"a":' + "[" * 100_000,
        '{"name":"time","parameters":{"a":[\n{"name":"time","parameters":{}}',
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    assert read([text]) == (text, ()) == read(text)


def test_only_what_may_become_a_call_is_held_back() -> None:
    reader = CallReader(NAMES, constrained=False)
    shown = [reader.push(text).text for text in ("Look", ".\n", "{", '"name', "s", "\n", "x")]
    assert shown == ["Look", ".", "", "", '\n{"names', "", "\nx"]


def test_constrained_arguments_come_as_they_are_written_and_stay_when_cut_short() -> None:
    reader = CallReader(NAMES, constrained=True)
    starts = [reader.push(text).calls for text in ('{"name":"time","parameters":', '{"zo', 'ne":"U')]
    assert starts[0] == () and [delta.name for delta in starts[1]] == ["time", None]
    assert [delta.arguments for delta in starts[2]] == ['ne":"U']
    assert reader.finish().text == "" and plain(reader.calls) == [("time", '{"zone":"U')]


def test_one_call_where_several_are_not_wanted() -> None:
    text, calls = read([f"{CALL}\n{CALL}"], parallel=False)
    assert text == f"\n{CALL}" and plain(calls) == [READ]


def test_ids() -> None:
    ids = [call.id for call in read([f"{CALL}\n{CALL}"])[1]]
    assert len(set(ids)) == 2 and all(id.startswith("call_") and len(id) == 29 for id in ids)
    assert ids == [call.id for call in read(f"{CALL}\n{CALL}", constrained=True)[1]]
    unseeded = CallReader(NAMES, constrained=False)
    unseeded.push(CALL)
    assert unseeded.calls[0].id not in ids


SCRAPS = [
    "{", "}", "[", "]", '"', '"name"', '"parameters"', '"arguments"', ":", ",", '"time"', '"date"', "\n", " ",
    "```", "```json\n", "\\", "a", CALL, '{"name":"time"', ',"parameters":{', "}}", "x\n",
]  # fmt: skip
texts = st.lists(st.sampled_from(SCRAPS), max_size=30).map("".join)


@given(texts, st.data(), st.booleans(), st.booleans())
def test_how_the_text_is_cut_does_not_matter(
    text: str, data: st.DataObject, constrained: bool, parallel: bool
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read([text], constrained, parallel=parallel)
    assert read(pieces, constrained, parallel=parallel) == whole == read(text, constrained, parallel=parallel)


@given(texts)
def test_nothing_is_lost(text: str) -> None:
    left, calls = read([text])
    if not calls:
        assert left == text
    # What is missing from the text is the calls, and beside them only whitespace and fences.
    position = 0
    for character in left:
        position = text.index(character, position) + 1
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)
    assert all(call.name in text and (call.arguments in text or call.arguments == "{}") for call in calls)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(st.text("xyz\n", max_size=3), values, max_size=3)


@given(
    st.text("abc. {}", max_size=20).map(str.strip),
    st.lists(st.tuples(st.sampled_from(NAMES), arguments, st.sampled_from([None, 1])), max_size=4),
    st.booleans(),
)
def test_rendered_calls_are_read_again(text: str, made: list[Any], constrained: bool) -> None:
    calls = tuple(ToolCall("", name, json.dumps(given, indent=indent)) for name, given, indent in made)
    left, found = read([calls_text(text, calls)], constrained)
    assert left == text and plain(found) == plain(calls)
