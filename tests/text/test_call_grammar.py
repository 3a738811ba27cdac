"""The grammars of calls, compiled by llguidance over bytes: what they accept and where they stop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemlet.text.call_grammar import MAX_CALLS, call_grammar, closed
from gemlet.text.call_reader import CallReader
from gemlet.text.tools import Tool, ToolChoice, ToolUse, call_text, read_tools

llguidance = pytest.importorskip("llguidance")

ZONE = {
    "properties": {"zone": {"type": "string"}, "n": {"type": "integer"}, "unit": {"enum": ["h", "m"]}},
    "required": ["zone"],
}
TOOLS = read_tools(
    [
        {"type": "function", "function": {"name": "time", "parameters": ZONE}},
        {"type": "function", "function": {"name": "time_2-b"}},
    ]
)
AUTO, REQUIRED = ToolChoice("auto"), ToolChoice("required")
TIME, OTHER = call_text("time", '{"zone":"é\\n\\"","n":-3,"unit":"h"}'), call_text("time_2-b", "{}")


def follow(
    choice: ToolChoice, text: str, parallel: bool = True, tools: tuple[Tool, ...] = TOOLS
) -> tuple[int, bool]:
    """How far the grammar follows the text, and whether the answer may end there."""
    return match(call_grammar(ToolUse(tools, choice, parallel)), text)


def match(grammar: str, text: str) -> tuple[int, bool]:
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(list(text.encode())), matcher.is_accepting()


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (REQUIRED, TIME),
        (REQUIRED, OTHER),
        (REQUIRED, f"{TIME}\n{OTHER}\n{TIME}"),
        (REQUIRED, "\n".join([OTHER] * MAX_CALLS)),
        (ToolChoice("required", "time"), TIME),
        (AUTO, ""),
        (AUTO, "Hello.\n\nIt is noon."),
        (AUTO, '{"name":"moon","parameters":3}'),
        (AUTO, 'In a line {"name":"time"} is text'),
        (AUTO, f"I look.\n{TIME}"),
        (AUTO, f"{TIME}\n{OTHER}"),
        (AUTO, f"```json\n{TIME}\n```"),
        (AUTO, '{\n  "name": "time","parameters":{"zone":""}}'),
    ],
)
def test_what_is_accepted(choice: ToolChoice, text: str) -> None:
    assert follow(choice, text) == (len(text.encode()), True)
    reader = CallReader([tool.name for tool in TOOLS], constrained=True)
    reader.push(text)
    reader.finish()
    assert len(reader.calls) == text.count('"parameters":{')


@pytest.mark.parametrize(
    ("choice", "text", "followed"),
    [
        (REQUIRED, "Hello", 0),
        (REQUIRED, f"{TIME}Hello", len(TIME.encode())),
        (REQUIRED, '{"name": "time"', 8),
        (REQUIRED, '{"name":"moon"', 9),
        (REQUIRED, call_text("time", '{"zone": ""}'), 36),
        (REQUIRED, call_text("time", "{}"), 29),
        (REQUIRED, call_text("time", '{"zone":1}'), 36),
        (REQUIRED, call_text("time", '{"zone":"","moon":1}'), 40),
        (REQUIRED, call_text("time", '{"zone":"","unit":"s"}'), 47),
        (REQUIRED, call_text("time_2-b", '{"a":1}'), 33),
        (ToolChoice("required", "time"), OTHER, 13),
        (AUTO, 'I look.\n{"name":"time"}', 22),
        (AUTO, f"I look.\n{OTHER} and", 8 + len(OTHER)),
        (AUTO, call_text("time", '{"zone":1}'), 36),
    ],
)
def test_where_the_grammar_stops(choice: ToolChoice, text: str, followed: int) -> None:
    assert follow(choice, text)[0] == followed


@pytest.mark.parametrize("choice", [AUTO, REQUIRED])
def test_an_answer_may_not_end_inside_a_call(choice: ToolChoice) -> None:
    beginning = len('{"name":"time"')
    for end in range(beginning, len(TIME)):
        assert not follow(choice, TIME[:end])[1]


@pytest.mark.parametrize("choice", [AUTO, REQUIRED])
def test_one_call_where_several_are_not_wanted(choice: ToolChoice) -> None:
    assert follow(choice, f"{OTHER}", parallel=False) == (len(OTHER), True)
    assert follow(choice, f"{OTHER}\n{OTHER}", parallel=False)[0] <= len(OTHER) + 1


@pytest.mark.parametrize(
    ("text", "followed"),
    [('{"a":3}', 7), (TIME, None), (f"{TIME}\n{OTHER}", None), ("Hello", 0), ('{"a": 3}', 5), ("[]", 0)],
)
def test_json_of_a_schema_or_calls(text: str, followed: int | None) -> None:
    answer = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    grammar = call_grammar(ToolUse(TOOLS, AUTO), json.dumps(answer))
    whole = len(text.encode())
    expected = whole if followed is None else followed
    assert match(grammar, text) == (expected, expected == whole)


def test_references_inside_a_schema() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "required": ["a"],
        "$defs": {"n": {"type": "integer"}},
    }
    tools = read_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}])
    text = call_text("f", '{"a":12}')
    assert follow(REQUIRED, text, tools=tools) == (len(text), True)
    assert follow(REQUIRED, call_text("f", '{"a":"x"}'), tools=tools)[0] < len(text) - 2


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {}),
        ({"properties": {}}, {"properties": {}, "additionalProperties": False}),
        ({"properties": {}, "additionalProperties": True}, {"properties": {}, "additionalProperties": True}),
        ({"properties": {}, "anyOf": [{}]}, {"properties": {}, "anyOf": [{}]}),
        ({"properties": {}, "required": ["a"]}, {"properties": {}, "required": ["a"]}),
        (
            {"items": {"properties": {"a": True}}},
            {"items": {"properties": {"a": True}, "additionalProperties": False}},
        ),
    ],
)
def test_objects_that_list_their_keys_are_closed(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected
