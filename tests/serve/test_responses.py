"""The official client's `responses` against the server: what the library answers, in that API's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from gemlet.serve.handle import Handle
from gemlet.serve.registry import Served
from gemlet.serve.responses import Writer
from gemlet.serve.responses_schema import ResponsesRequest
from gemlet.types import TokenEvent, ToolCallDelta
from tests.infer.fake_model import CONTEXT, fake_decoder, fake_model
from tests.infer.test_leaving import idle
from tests.infer.test_tools import TOOLS
from tests.serve.conftest import Server, serving

TEXT = "The area of a wide room"
MESSAGES = [{"role": "user", "content": TEXT}]
SAMPLING = {"temperature": 0.8, "top_p": 0.9}
EXTRA = {"seed": 3, "top_k": 30, "repetition_penalty": 1.1}
EVENTS = TypeAdapter(ResponseStreamEvent)


def test_a_response_is_the_librarys_answer(server: Server) -> None:
    expected = server.model.chat(MESSAGES, max_tokens=12, **SAMPLING, **EXTRA)
    done = server.client().responses.create(
        model="gpt-4o", input=TEXT, max_output_tokens=12, extra_body=EXTRA, metadata={"a": "b"}, **SAMPLING
    )
    assert done.output_text == expected.text
    assert done.usage.input_tokens == expected.usage.prompt_tokens
    assert done.usage.output_tokens == expected.usage.completion_tokens
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    assert done.usage.input_tokens_details.cached_tokens >= 0
    assert (done.temperature, done.top_p, done.metadata) == (0.8, 0.9, {"a": "b"})
    assert done.model == server.client().models.list().data[0].id
    Response.model_validate(done.to_dict(), strict=False)


@pytest.mark.parametrize(("limit", "status"), [(3, "incomplete"), (None, "completed")])
def test_an_answer_that_was_cut_says_so(server: Server, limit: int | None, status: str) -> None:
    first = server.model.chat(MESSAGES, max_tokens=12, seed=3, ignore_eos=True).text
    stop = {} if limit else {"stop": first[4:6]}
    done = server.client().responses.create(
        model="gpt-4o",
        input=TEXT,
        max_output_tokens=limit,
        extra_body={"seed": 3, "ignore_eos": True, **stop},
    )
    assert (done.status, done.output[-1].status) == (status, status)
    assert (done.incomplete_details and done.incomplete_details.reason) == (
        "max_output_tokens" if limit else None
    )
    assert (done.completed_at is None) == (status == "incomplete")


def test_a_stream_has_every_event_in_order(server: Server) -> None:
    expected = server.model.chat(MESSAGES, max_tokens=12, **SAMPLING, **EXTRA)
    body = {"model": "gpt-4o", "input": TEXT, "max_output_tokens": 12, "stream": True, **SAMPLING, **EXTRA}
    with server.http() as http, http.stream("POST", "/v1/responses", json=body) as answer:
        names = [line[len("event: ") :] for line in answer.iter_lines() if line.startswith("event: ")]
    events = list(
        server.client().responses.create(
            model="gpt-4o", input=TEXT, max_output_tokens=12, stream=True, extra_body=EXTRA, **SAMPLING
        )
    )
    assert [event.type for event in events] == names
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == expected.text
    last = "completed" if expected.finish_reason == "stop" else "incomplete"
    assert [name.removeprefix("response.") for name in names if not name.endswith(".delta")] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        last,
    ]
    assert events[0].response.output == [] and events[0].response.status == "in_progress"
    assert events[-1].response.output_text == expected.text
    assert events[-1].response.usage.output_tokens == expected.usage.completion_tokens
    for event in events:
        EVENTS.validate_python(event.to_dict())


def test_the_clients_own_stream(server: Server) -> None:
    expected = server.model.chat(MESSAGES, max_tokens=200, **SAMPLING, **EXTRA)
    asked = {"model": "gpt-4o", "input": TEXT, "max_output_tokens": 200, "extra_body": EXTRA, **SAMPLING}
    with server.client().responses.stream(**asked) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        if expected.finish_reason == "stop":
            assert stream.get_final_response().output_text == expected.text
    assert snapshots[-1] == expected.text


def test_instructions_and_earlier_items_are_the_conversation(server: Server) -> None:
    items = [
        {"role": "user", "content": TEXT},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "wide", "annotations": []}],
        },
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "of a "}, {"type": "input_text", "text": "room"}],
        },
    ]
    messages = [
        {"role": "system", "content": "be wide"},
        MESSAGES[0],
        {"role": "assistant", "content": "wide"},
        {"role": "user", "content": [{"type": "text", "text": "of a "}, {"type": "text", "text": "room"}]},
    ]
    expected = server.model.chat(messages, max_tokens=12, seed=3)
    done = server.client().responses.create(
        model="gpt-4o", input=items, instructions="be wide", max_output_tokens=12, extra_body={"seed": 3}
    )
    assert done.output_text == expected.text
    assert done.usage.input_tokens == expected.usage.prompt_tokens
    # What was answered can be sent back as it is.
    again = server.client().responses.create(
        model="gpt-4o", input=[*items, *done.output, items[0]], max_output_tokens=2
    )
    assert again.usage.input_tokens > done.usage.input_tokens


def test_calls_of_one_answer_are_one_message() -> None:
    def call(id: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}

    def result(id: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": id, "output": "1"}

    items = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "I look"},
        call("a"),
        call("b"),
        result("a"),
        result("b"),
        call("c"),
        result("c"),
    ]
    read = ResponsesRequest.model_validate({"model": "m", "input": items}).messages()
    assert [message["role"] for message in read] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
    ]
    assert [[call["id"] for call in message.get("tool_calls", ())] for message in read] == [
        [],
        ["a", "b"],
        [],
        [],
        ["c"],
        [],
    ]
    assert [message.get("tool_call_id") for message in read if message["role"] == "tool"] == ["a", "b", "c"]


def test_log_probabilities(server: Server) -> None:
    expected = server.model.chat(MESSAGES, max_tokens=8, seed=3, logprobs=2)
    asked = {
        "model": "gpt-4o",
        "input": TEXT,
        "max_output_tokens": 8,
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
        "extra_body": {"seed": 3},
    }
    done = server.client().responses.create(**asked)
    told = done.output[0].content[0].logprobs
    assert [token.logprob for token in told] == [token.logprob for token in expected.logprobs]
    assert all(len(token.top_logprobs) == 2 for token in told)
    events = list(server.client().responses.create(stream=True, **asked))
    (whole,) = [event for event in events if event.type == "response.output_text.done"]
    assert [token.logprob for token in whole.logprobs] == [token.logprob for token in told]


FLAT = [{"type": "function"} | tool["function"] for tool in TOOLS]


def test_the_tool_loop_of_the_official_client(server: Server) -> None:
    client, items = server.client(), [{"role": "user", "content": TEXT}]
    named = {"type": "function", "name": "ping"}
    asked = client.responses.create(
        model="gpt-4o", input=items, tools=FLAT, tool_choice=named, extra_body={"seed": 1}
    )
    assert asked.status == "completed" and asked.output_text == ""
    items += asked.output
    messages = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": []}]
    for call in asked.output:
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "ping", {})
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "pong"})
        function = {"name": call.name, "arguments": call.arguments}
        messages[1]["tool_calls"].append({"id": call.call_id, "type": "function", "function": function})
        messages.append({"role": "tool", "tool_call_id": call.call_id, "content": "pong"})
    said = client.responses.create(
        model="gpt-4o",
        input=items,
        tools=FLAT,
        tool_choice="none",
        max_output_tokens=8,
        extra_body={"seed": 1},
    )
    assert said.output_text == server.model.chat(messages, max_tokens=8, seed=1).text
    Response.model_validate(asked.to_dict())


def test_the_pieces_of_streamed_calls(server: Server) -> None:
    options = {"tool_choice": "required", "seed": 4}
    expected = server.model.chat(MESSAGES, tools=TOOLS, **options)
    asked = {"model": "gpt-4o", "input": TEXT, "tools": FLAT, "tool_choice": "required"}
    events = list(server.client().responses.create(stream=True, extra_body={"seed": 4}, **asked))
    for event in events:
        EVENTS.validate_python(event.to_dict())
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [(item.call_id, item.name, item.arguments) for item in added] == [
        (call.id, call.name, "") for call in expected.tool_calls
    ]
    written = dict.fromkeys((item.id for item in added), "")
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            written[event.item_id] += event.delta
    whole = [call.arguments for call in expected.tool_calls]
    assert list(written.values()) == whole
    ends = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in ends] == whole
    assert [event.output_index for event in ends] == list(range(len(whole)))
    with server.client().responses.stream(extra_body={"seed": 4}, **asked) as stream:
        assert [item.arguments for item in stream.get_final_response().output] == whole


def test_text_and_calls_are_items_of_their_own(server: Server) -> None:
    """What the writer makes of text, calls and text, whatever model could write it."""
    done = server.model.chat(MESSAGES, max_tokens=1)
    request = ResponsesRequest.model_validate({"model": "m", "input": "x"})
    writer = Writer(Served("m", Handle(server.model)), request)
    deltas = (ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments="{}"), ToolCallDelta(1, "b", "g"))
    tokens = [
        TokenEvent("look", 5, None),
        TokenEvent("", 6, None, tool_calls=deltas),
        TokenEvent(" there", 7, None),
        TokenEvent("", 8, None, completion=done),
    ]
    events = [event for token in tokens for event in writer.take(token)]
    assert [item["type"] for item in writer.response["output"]] == [
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    opened = 0
    for event in events:
        opened += event["type"].endswith("item.added")
        assert event.get("output_index", opened - 1) == opened - 1
    assert sum(event["type"].endswith("item.done") for event in events) == opened == 4
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


class Answer(BaseModel):
    word: bool


def test_the_answer_keeps_to_a_schema(server: Server) -> None:
    client = server.client()
    done = client.responses.parse(
        model="gpt-4o", input=TEXT, text_format=Answer, max_output_tokens=300, extra_body={"seed": 1}
    )
    assert isinstance(done.output_parsed, Answer)
    with client.responses.stream(
        model="gpt-4o", input=TEXT, text_format=Answer, max_output_tokens=300, extra_body={"seed": 1}
    ) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == done.output_parsed
    plain = client.responses.create(
        model="gpt-4o", input=TEXT, text={"format": {"type": "json_object"}}, max_output_tokens=1
    )
    assert plain.output_text.startswith("{")


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "user", "content": 7}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]}, "input.0"),
        ({"input": [{"role": "user", "content": "x", "colour": 1}]}, "input.0.colour"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input.0.role"),
        ({"n": 2}, "n"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
        ({"truncation": "left"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(
    server: Server, bad: dict[str, Any], param: str, stream: bool
) -> None:
    body = {"model": "gpt-4o", "input": TEXT, "stream": stream} | bad
    answer = server.http().post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error" and error["message"]
    assert error["param"] == param


def test_other_errors_have_their_status(server: Server) -> None:
    create = server.client().responses.create
    with pytest.raises(openai.NotFoundError):
        create(model="no-such", input=TEXT)
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="gpt-4o", input=TEXT, max_output_tokens=10**6, stream=True)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "input"


def test_what_does_not_fit_is_cut_only_where_that_is_asked_for(server: Server) -> None:
    turns = [{"role": role, "content": "wide room " * 40} for role in ("user", "assistant")] * 6
    asked = {"model": "gpt-4o", "input": [*turns, *MESSAGES], "max_output_tokens": 2}
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT)):
        server.client().responses.create(**asked)
    done = server.client().responses.create(truncation="auto", **asked)
    assert done.usage.input_tokens <= CONTEXT - 2 and done.truncation == "auto"
    assert done.to_dict()["normalisations"]


def test_a_stream_that_is_cut_off_says_that_it_failed() -> None:
    with fake_model(fake_decoder(delay=0.05)) as model, serving(model) as running:
        events = running.client().responses.create(
            model="gpt-4o", input=TEXT, stream=True, extra_body={"ignore_eos": True}
        )
        seen = []
        for event in events:
            seen.append(event)
            if event.type == "response.output_text.delta":
                model.close()
        assert seen[-1].type == "response.failed" and "cut off" in seen[-1].response.error.message
        assert [event.sequence_number for event in seen] == list(range(len(seen)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_request(slow: Server, stream: bool) -> None:
    body = {
        "model": "gpt-4o",
        "input": TEXT,
        "ignore_eos": True,
        "max_output_tokens": 200,
        "stream": stream,
    }
    with slow.http() as http:
        if stream:
            with http.stream("POST", "/v1/responses", json=body) as answer:
                assert next(iter_events(answer)) == "event: response.created"
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/responses", json=body, timeout=0.5)
    assert idle(slow.model, 5)  # 200 steps would take 20 seconds


def iter_events(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line.startswith("event: "))
