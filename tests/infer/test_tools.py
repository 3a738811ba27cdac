"""Calls of tools, on the fake decoder: whatever it prefers, they are declared ones with fitting arguments."""

from __future__ import annotations

import asyncio
import json
import sys

import jsonschema
import pytest

from gemlet.errors import InvalidRequestError, MissingExtraError
from gemlet.types import Completion, ToolCall
from tests.infer.fake_model import VOCABULARY, fake_model
from tests.infer.fakes import FakeDecoder, small_config

ASKED = [{"role": "user", "content": "What time is it?"}]
ZONE = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["zone", "n"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
FORM = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
SCHEMAS = {"time": ZONE, "ping": NOTHING}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "ping"}}


def check(done: Completion) -> None:
    assert done.finish_reason == "tool_calls" and done.text == "" and done.tool_calls
    for call in done.tool_calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


def test_what_is_required_is_called() -> None:
    with fake_model() as model:
        for done in model.chat(ASKED, tools=TOOLS, tool_choice="required", n=3, seed=3):
            check(done)
        (call,) = model.chat(ASKED, tools=TOOLS, tool_choice=NAMED, parallel_tool_calls=False).tool_calls
        assert (call.name, call.arguments) == ("ping", "{}")


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
def test_a_function_without_parameters_is_called_without_arguments(parameters: dict) -> None:
    tools = [{"type": "function", "function": {"name": "now", **parameters}}]
    with fake_model() as model:
        for done in model.chat(ASKED, tools=tools, tool_choice="required", n=4, seed=3):
            assert {call.arguments for call in done.tool_calls} == {"{}"}


def test_one_call_where_several_are_not_wanted() -> None:
    with fake_model() as model:
        asked = {"tools": TOOLS, "tool_choice": "required", "n": 8, "seed": 3}
        several = model.chat(ASKED, **asked)
        assert max(len(done.tool_calls) for done in several) > 1
        for done in model.chat(ASKED, **asked, parallel_tool_calls=False):
            check(done)
            assert len(done.tool_calls) == 1


def test_an_answer_in_a_form_or_a_call() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": FORM}}
    with fake_model() as model:
        answers = model.chat(
            ASKED, tools=TOOLS, response_format=form, n=32, seed=1, parallel_tool_calls=False
        )
    calls = [done for done in answers if done.tool_calls]
    texts = [done for done in answers if not done.tool_calls]
    assert calls and texts
    for done in calls:
        check(done)
    for done in texts:
        jsonschema.validate(json.loads(done.text), FORM)
        assert done.finish_reason == "stop"


def test_the_pieces_of_a_stream_are_the_calls() -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "n": 3, "seed": 7}
    with fake_model() as model:
        whole = model.chat(ASKED, **asked)
        events = list(model.chat(ASKED, **asked, stream=True))
        alone = asyncio.run(model.achat(ASKED, **asked))
    assert [done.tool_calls for done in alone] == [done.tool_calls for done in whole]
    for index, done in enumerate(whole):
        calls: list[ToolCall] = []
        for delta in (delta for event in events if event.index == index for delta in event.tool_calls):
            if delta.id is not None:
                assert delta.index == len(calls) and delta.arguments == ""
                calls.append(ToolCall(delta.id, delta.name, ""))
            else:
                last = calls[delta.index]
                calls[delta.index] = ToolCall(last.id, last.name, last.arguments + delta.arguments)
        assert tuple(calls) == done.tool_calls


def test_ids_repeat_with_the_request_and_only_with_it() -> None:
    asked = {"tools": TOOLS, "tool_choice": NAMED, "seed": 5, "parallel_tool_calls": False}
    with fake_model() as model:
        first, again = model.chat(ASKED, **asked), model.chat(ASKED, **asked)
        assert first.tool_calls == again.tool_calls
        (call,) = first.tool_calls
        said = {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": "ping", "arguments": "{}"}}
            ],
        }
        result = {"role": "tool", "tool_call_id": call.id, "content": "pong"}
        (later,) = model.chat([*ASKED, said, result], **asked).tool_calls
        assert later.id != call.id and later.name == call.name


def test_a_call_that_is_cut_short_is_not_taken_for_a_whole_one() -> None:
    with fake_model() as model:
        done = model.chat(ASKED, tools=TOOLS, tool_choice=NAMED, max_tokens=4, seed=1)
    assert done.finish_reason == "length"


def test_none_neither_declares_nor_calls() -> None:
    with fake_model() as model:
        plain = model.chat(ASKED, seed=1, max_tokens=20)
        for asked in ({"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}):
            assert model.chat(ASKED, seed=1, max_tokens=20, **asked).token_ids == plain.token_ids


def test_a_base_model_calls_too() -> None:
    decoder = FakeDecoder(small_config(VOCABULARY, 4000))  # the frame of examples is long
    with fake_model(decoder, has_chat_format=False) as model:
        done = model.chat(ASKED, tools=TOOLS, tool_choice="required", max_tokens=200, seed=1)
    check(done)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"tools": TOOLS, "regex": "a"}, "regex and tools"),
        ({"tools": TOOLS, "grammar": 'start: "a"'}, "grammar and tools"),
        ({"tool_choice": "required"}, "no tools are declared"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "'f' is not"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": {"type": "function"}}, "tools: must be a list"),
    ],
)
def test_what_cannot_be_done_is_named(asked: dict, match: str) -> None:
    with fake_model() as model, pytest.raises(InvalidRequestError, match=match):
        model.chat(ASKED, **asked)


def test_without_the_library_auto_is_free_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with fake_model() as model:
        done = model.chat(ASKED, tools=TOOLS, max_tokens=5)
        assert any("not held" in line for line in done.normalisations)
        for asked in ({"tool_choice": "required"}, {"response_format": {"type": "json_object"}}):
            with pytest.raises(MissingExtraError, match="structured"):
                model.chat(ASKED, tools=TOOLS, **asked)
