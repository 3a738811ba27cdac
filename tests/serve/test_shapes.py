"""Tools and answers in a form, as the official client asks for them."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from tests.infer.test_tools import NAMED, SCHEMAS, TOOLS
from tests.serve.conftest import Server

MESSAGES: list[Any] = [{"role": "user", "content": "The area of a wide room"}]


class Colour(Enum):
    red = "red"
    blue = "blue"


class Flag(BaseModel):
    colour: Colour
    wide: bool


def test_the_tool_loop_of_the_official_client(server: Server) -> None:
    client, messages = server.client(), list(MESSAGES)
    create = client.chat.completions.create
    asked = create(model="gpt-4o", messages=messages, tools=TOOLS, tool_choice=NAMED, seed=1)
    (choice,) = asked.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    messages.append(choice.message)
    for call in choice.message.tool_calls:
        assert call.type == "function" and call.function.name == "ping"
        assert json.loads(call.function.arguments) == {}
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "pong"})
    said = create(model="gpt-4o", messages=messages, tools=TOOLS, tool_choice="none", max_tokens=8, seed=1)
    assert said.choices[0].message.content and said.choices[0].message.tool_calls is None
    sent = [
        {"role": m["role"], "content": m["content"]}
        if isinstance(m, dict)
        else m.model_dump(exclude_unset=True)
        for m in messages
    ]
    sent[2]["tool_call_id"] = messages[2]["tool_call_id"]
    assert said.choices[0].message.content == server.model.chat(sent, max_tokens=8, seed=1).text


def test_the_pieces_of_streamed_calls(server: Server) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "seed": 4}
    expected = server.model.chat(**asked)
    client = server.client()
    calls: list[dict[str, str]] = []
    finish = None
    for chunk in client.chat.completions.create(model="gpt-4o", stream=True, **asked):
        (choice,) = chunk.choices
        finish = choice.finish_reason or finish
        places = [piece.index for piece in choice.delta.tool_calls or ()]
        assert len(places) == len(set(places))  # clients join the pieces of chunks, not of one chunk
        for piece in choice.delta.tool_calls or ():
            if piece.id is not None:
                assert piece.index == len(calls) and piece.type == "function"
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            calls[piece.index]["arguments"] += piece.function.arguments
    assert finish == "tool_calls"
    whole = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in expected.tool_calls]
    assert calls == whole
    with client.chat.completions.stream(model="gpt-4o", **asked) as stream:  # the client's own reassembly
        message = stream.get_final_completion().choices[0].message
    assert [call.function.arguments for call in message.tool_calls] == [one["arguments"] for one in whole]


def test_parsed_answers(server: Server) -> None:
    client = server.client()
    done = client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Flag, n=4)
    assert all(isinstance(choice.message.parsed, Flag) for choice in done.choices)
    with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, response_format=Flag) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Flag)
    tool = openai.pydantic_function_tool(Flag, name="paint")
    done = client.chat.completions.parse(
        model="gpt-4o", messages=MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = done.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Flag)


def test_json_in_text_completions_and_chats(server: Server) -> None:
    create = server.client().completions.create
    for shape in ({"regex": "[a-c]{3}"}, {"grammar": 'start: "yes" | "no"'}):
        done = create(model="gpt-4o", prompt="x", max_tokens=40, extra_body=shape)
        assert done.choices[0].finish_reason == "stop"
        assert done.choices[0].text in ("yes", "no") or set(done.choices[0].text) <= set("abc")
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["time"], "strict": True}}
    chat = server.client().chat.completions.create(
        model="gpt-4o", messages=MESSAGES, response_format=form, seed=2
    )
    jsonschema.validate(json.loads(chat.choices[0].message.content), SCHEMAS["time"])


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(server: Server, schema: Any, named: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=named):
        server.client().chat.completions.create(model="gpt-4o", messages=MESSAGES, response_format=form)
