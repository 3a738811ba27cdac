"""Declarations of tools: what is refused and where, what a prompt says, how a history with calls is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemlet.errors import ConversationError, GemletError, InvalidRequestError, UnsupportedParameterError
from gemlet.text.template import render, render_base
from gemlet.text.tools import (
    MAX_DEPTH,
    MAX_TOOLS,
    ToolChoice,
    call_text,
    declaration,
    read_parallel_tool_calls,
    read_tool_choice,
    read_tools,
)
from gemlet.types import Message, ToolCall
from tests.text.vocabularies import tiny

SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}


def function(name: Any = "time", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS = read_tools([function(description="The time.", parameters=SCHEMA), function("date")])


def nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_tools_are_read() -> None:
    assert [tool.name for tool in TOOLS] == ["time", "date"]
    assert TOOLS[0].description == "The time." and TOOLS[0].parameters == SCHEMA
    assert TOOLS[1].parameters == {"type": "object", "properties": {}}
    assert read_tools(None) == () == read_tools([]) and read_tools(TOOLS) == TOOLS


@pytest.mark.parametrize(
    ("tools", "error", "named"),
    [
        ("time", InvalidRequestError, "tools: must be a list"),
        (["time"], InvalidRequestError, r"tools\[0\]: must be"),
        ([{"function": {"name": "a"}}], InvalidRequestError, r"tools\[0\].type"),
        ([{"type": "web_search"}], UnsupportedParameterError, r"tools\[0\].type.*web_search"),
        ([function() | {"mood": 1}], InvalidRequestError, r"tools\[0\]: the key 'mood'"),
        ([function(mood=1)], InvalidRequestError, r"tools\[0\].function: the key 'mood'"),
        ([function("a b")], InvalidRequestError, r"tools\[0\].function.name"),
        ([function("a\n")], InvalidRequestError, "name"),
        ([function("a" * 65)], InvalidRequestError, "name"),
        ([function(None)], InvalidRequestError, "name"),
        ([function(), function()], InvalidRequestError, r"tools\[1\].*declared twice"),
        ([function(strict="yes")], InvalidRequestError, "strict"),
        ([function(description=3)], InvalidRequestError, "description"),
        ([function(description="a\ud800")], InvalidRequestError, "description"),
        ([function(parameters=[])], InvalidRequestError, "parameters: must be"),
        ([function(parameters={"type": "string"})], InvalidRequestError, "parameters.type"),
        ([function(parameters={"properties": []})], InvalidRequestError, "parameters.properties"),
        ([function(parameters={"properties": {"a": 1}})], InvalidRequestError, "properties.a"),
        ([function(parameters={"required": "a"})], InvalidRequestError, "parameters.required"),
        ([function(parameters={"x": {1: 2}})], InvalidRequestError, "a key of"),
        ([function(parameters={"x": [float("nan")]})], InvalidRequestError, r"parameters.x\[0\]"),
        ([function(parameters={"x": object()})], InvalidRequestError, "parameters.x: object"),
        ([function(parameters={"x": 10**5000})], InvalidRequestError, "parameters.x: a whole number"),
        ([function(parameters=nested(MAX_DEPTH))], InvalidRequestError, "levels"),
        ([function(parameters={"title": "a" * 70_000})], InvalidRequestError, "longer than"),
        ([function(f"f{i}") for i in range(MAX_TOOLS + 1)], InvalidRequestError, "too many"),
        ([function(f"f{i}", description="a" * 16_000) for i in range(100)], InvalidRequestError, "together"),
    ],
)
def test_what_is_refused_names_its_place(tools: Any, error: type[GemletError], named: str) -> None:
    with pytest.raises(error, match=named):
        read_tools(tools)


@pytest.mark.parametrize(
    ("choice", "tools", "expected"),
    [
        (None, TOOLS, ToolChoice("auto")),
        (None, (), ToolChoice("none")),
        ("auto", (), ToolChoice("none")),
        ("none", TOOLS, ToolChoice("none")),
        ("auto", TOOLS, ToolChoice("auto")),
        ("required", TOOLS, ToolChoice("required")),
        (function("date"), TOOLS, ToolChoice("required", "date")),
    ],
)
def test_choices(choice: Any, tools: Any, expected: ToolChoice) -> None:
    assert read_tool_choice(choice, tools) == expected


@pytest.mark.parametrize(
    ("choice", "tools", "error"),
    [
        ("any", TOOLS, InvalidRequestError),
        (3, TOOLS, InvalidRequestError),
        ("required", (), InvalidRequestError),
        (function("moon"), TOOLS, InvalidRequestError),
        (function("date"), (), InvalidRequestError),
        ({"function": {"name": "date"}}, TOOLS, InvalidRequestError),
        (function("date") | {"x": 1}, TOOLS, InvalidRequestError),
        (function("date", x=1), TOOLS, InvalidRequestError),
        ({"type": "allowed_tools"}, TOOLS, UnsupportedParameterError),
    ],
)
def test_choices_that_are_refused(choice: Any, tools: Any, error: type[GemletError]) -> None:
    with pytest.raises(error, match="tool_choice"):
        read_tool_choice(choice, tools)


def test_parallel_calls_are_a_switch() -> None:
    assert read_parallel_tool_calls(None) and not read_parallel_tool_calls(False)
    with pytest.raises(InvalidRequestError, match="parallel_tool_calls"):
        read_parallel_tool_calls(1)


def test_the_declaration_is_json_of_the_functions() -> None:
    text = declaration(TOOLS)
    assert json.loads(text[text.index("[\n") :]) == [
        {"name": "time", "description": "The time.", "parameters": SCHEMA},
        {"name": "date", "parameters": {"type": "object", "properties": {}}},
    ]


def test_arguments_keep_their_text() -> None:
    assert call_text("f", '{"a" : 1}') == '{"name":"f","parameters":{"a" : 1}}'
    assert json.loads(call_text("f", "[" * 100_000))["parameters"] == "[" * 100_000


CALLS = (ToolCall("1", "time", '{"zone":"UTC"}'), ToolCall("2", "date", "{}"))
ASKED = [Message("user", "When?"), Message("assistant", "I look.", tool_calls=CALLS)]
FIRST, SECOND = Message("tool", "12:00", tool_call_id="1"), Message("tool", "Monday", tool_call_id="2")


@pytest.mark.parametrize("results", [[FIRST, SECOND], [SECOND, FIRST]])
@pytest.mark.parametrize("strict", [False, True])
def test_calls_and_results_belong_to_the_format(results: list[Message], strict: bool) -> None:
    messages = [Message("system", "Be brief."), *ASKED, *results]
    rendered = render(messages, tiny(), tools=TOOLS, strict=strict)
    assert rendered.normalisations == ()
    head = f"{declaration(TOOLS)}\n\nBe brief.\n\nWhen?"
    answer = 'I look.\n{"name":"time","parameters":{"zone":"UTC"}}\n{"name":"date","parameters":{}}'
    result = "Result of time:\n12:00\n\nResult of date:\nMonday"
    expected = "".join(f"{turn}\n" for turn in (f"user\n{head}", f"model\n{answer}", f"user\n{result}"))
    assert tiny().decode(rendered.ids) == expected + "model\n"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [*ASKED, FIRST, SECOND, Message("tool", "x", tool_call_id="9")],
            r"messages\[4\].*'9' names no call",
        ),
        ([*ASKED, FIRST, FIRST, SECOND], r"messages\[3\].*'1' is not one that waits"),
        ([*ASKED, FIRST, Message("assistant", "Noon.")], r"messages\[3\].*results of the calls '2'"),
        ([*ASKED, Message("tool", "x")], r"messages\[2\].*None names no call"),
    ],
)
def test_results_without_calls_and_calls_without_results(messages: list[Message], said: str) -> None:
    with pytest.raises(ConversationError, match=said):
        render(messages, tiny(), tools=TOOLS, strict=True)
    lines = render(messages, tiny(), tools=TOOLS).normalisations
    with pytest.raises(ConversationError, match=said):
        raise ConversationError(lines[0])


def test_the_declaration_comes_first_and_its_ids_stay() -> None:
    prompts = [
        render([Message("system", text), Message("user", text)], tiny(), tools=TOOLS).ids for text in "ab"
    ]
    shared = next(i for i, (a, b) in enumerate(zip(*prompts, strict=True)) if a != b)
    assert declaration(TOOLS) in tiny().decode(prompts[0][:shared])
    continued = render([*ASKED, FIRST, SECOND], tiny(), tools=TOOLS).ids
    begun = render(ASKED[:1], tiny(), tools=TOOLS).ids
    assert continued[: len(begun)] == begun


def test_the_frame_for_base_models_has_tools_too() -> None:
    rendered = render_base([Message("system", "Be brief."), *ASKED, FIRST, SECOND], tiny(), tools=TOOLS)
    text = tiny().decode(rendered.ids)
    assert f"\n\nInstructions:\n{declaration(TOOLS)}\n\nBe brief.\n\nUser:\nWhen?" in text
    assert 'Assistant:\n{"name":"get_population","parameters":{"city":"Oslo"}}\n\nUser:\nResult of' in text
    assert not any(call_text(call.name, call.arguments).find(s) >= 0 for call in CALLS for s in rendered.stop)
    assert len(rendered.normalisations) == 1
