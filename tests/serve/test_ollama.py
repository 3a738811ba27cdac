"""The `ollama` client against the server: what the library answers, in that API's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from gemlet.serve.guard import Rules
from gemlet.serve.ollama_schema import OllamaChatRequest
from tests.infer.fake_model import CONTEXT, fake_decoder, fake_model
from tests.infer.test_leaving import idle
from tests.infer.test_tools import TOOLS
from tests.serve.conftest import Server, serving

TEXT = "The area of a wide room"
MESSAGES = [{"role": "user", "content": TEXT}]
OPTIONS = {"num_predict": 12, "seed": 3, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.01}
OPTIONS |= {"repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2, "stop": ["zz"]}
SAME = {name: value for name, value in OPTIONS.items() if name not in ("num_predict", "repeat_penalty")}
SAME |= {"max_tokens": 12, "repetition_penalty": 1.1}

LONG = {"type": "string", "minLength": 700}
"""What takes at least a hundred steps."""


def connect(server: Server, **headers: str) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=30, headers=headers)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    with connect(server) as opened:
        yield opened


def test_a_chat_is_the_librarys(server: Server, client: ollama.Client) -> None:
    expected = server.model.chat(MESSAGES, **SAME)
    done = client.chat(model="gpt-4o", messages=MESSAGES, options=OPTIONS)
    assert done.message.content == expected.text and done.message.role == "assistant"
    assert done.done and done.done_reason == expected.finish_reason
    assert done.prompt_eval_count == expected.usage.prompt_tokens
    assert done.eval_count == expected.usage.completion_tokens
    assert done.total_duration >= done.eval_duration > 0 and done.prompt_eval_duration > 0
    assert done.created_at.endswith("Z")


def test_a_stream_is_the_same_text(server: Server, client: ollama.Client) -> None:
    expected = server.model.chat(MESSAGES, **SAME)
    *parts, last = client.chat(model="gpt-4o", messages=MESSAGES, options=OPTIONS, stream=True)
    assert "".join(part.message.content for part in parts) == expected.text
    assert not any(part.done for part in parts) and last.done and last.message.content == ""
    assert (last.done_reason, last.eval_count) == (
        expected.finish_reason,
        expected.usage.completion_tokens,
    )
    with server.http() as http:  # a stream is what is asked for by saying nothing
        answer = http.post("/api/chat", json={"model": "gpt-4o", "messages": MESSAGES, "options": OPTIONS})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["done"] for line in answer.text.splitlines()] == [False] * len(parts) + [True]


@pytest.mark.parametrize("stream", [False, True])
def test_generate(server: Server, client: ollama.Client, stream: bool) -> None:
    def text(**asked: Any) -> str:
        answer = client.generate(model="gpt-4o", stream=stream, options=OPTIONS, **asked)
        return "".join(part.response for part in answer) if stream else answer.response

    system = [{"role": "system", "content": "be wide"}]
    assert text(prompt=TEXT) == server.model.chat(MESSAGES, **SAME).text
    assert text(prompt=TEXT, system="be wide") == server.model.chat([*system, *MESSAGES], **SAME).text
    assert text(prompt=TEXT, raw=True) == server.model.generate(TEXT, **SAME).text


def test_formats(server: Server, client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"word": {"type": "boolean"}}, "required": ["word"]}
    schema["additionalProperties"] = False
    done = client.chat(model="gpt-4o", messages=MESSAGES, format=schema, options={"seed": 1})
    assert set(json.loads(done.message.content)) == {"word"}
    done = client.generate(model="gpt-4o", prompt=TEXT, raw=True, format="json", options={"num_predict": 1})
    assert done.response.startswith("{")


def test_log_probabilities(server: Server, client: ollama.Client) -> None:
    expected = server.model.chat(MESSAGES, logprobs=2, **SAME)
    done = client.chat(model="gpt-4o", messages=MESSAGES, options=OPTIONS, logprobs=True, top_logprobs=2)
    assert [token.logprob for token in done.logprobs] == [token.logprob for token in expected.logprobs]
    assert all(len(token.top_logprobs) == 2 for token in done.logprobs)
    parts = client.chat(
        model="gpt-4o", messages=MESSAGES, options=OPTIONS, logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [token.logprob for part in parts for token in part.logprobs or ()]
    assert streamed == [token.logprob for token in expected.logprobs]


def test_what_there_is(server: Server, client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == "model" and listed.digest and listed.details.family == "gemma3"
    for name in ("model", "model:latest"):
        shown = client.show(name)
        assert "completion" in shown.capabilities
        assert shown.modelinfo["gemma3.context_length"] == server.model.context
        assert "temperature 1.0" in shown.parameters.splitlines()
    assert server.http().get("/api/version").json()["version"]
    assert client.generate(model="model").done_reason == "load"
    assert client.chat(model="model", messages=[]).done_reason == "load"


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: ollama.Client, stream: bool) -> None:
    """The decoder writes what it likes, so a call is had by leaving it nothing else."""

    def add_two_numbers(a: int, b: int) -> int:
        """
        Add two numbers.

        Args:
          a: one
          b: other
        """
        return a + b

    call = {"function": {"name": "add_two_numbers", "arguments": {"a": 1, "b": 2}}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_name": "add_two_numbers"},
    ]
    asked = {
        "model": "model",
        "messages": messages,
        "tools": [add_two_numbers],
        "options": {"num_predict": 4},
    }
    answer = client.chat(stream=stream, **asked)
    assert (list(answer)[-1] if stream else answer).done_reason in ("stop", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_given_whole(
    server: Server, client: ollama.Client, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    achat = server.model.achat
    monkeypatch.setattr(
        server.model, "achat", lambda *given, **more: achat(*given, tool_choice="required", **more)
    )
    expected = server.model.chat(MESSAGES, tools=TOOLS, tool_choice="required", seed=4, max_tokens=30)
    options = {"seed": 4, "num_predict": 30}
    answer = client.chat(model="model", messages=MESSAGES, tools=TOOLS, options=options, stream=stream)
    calls = [call for part in (answer if stream else [answer]) for call in part.message.tool_calls or ()]
    whole = [call for call in expected.tool_calls if call.arguments.endswith("}")]
    assert len(whole) >= 1
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        (call.name, json.loads(call.arguments)) for call in whole
    ]


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"options": {"num_ctx": CONTEXT + 1}}, "options.num_ctx"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": {"colour": 1}}, "colour"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"think": True}, "think"),
        ({"shift": True}, "shift"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"colour": "red"}, "colour"),
    ],
)
@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(
    server: Server, route: str, bad: dict[str, Any], name: str, stream: bool
) -> None:
    asked = {"messages": MESSAGES} if route == "/api/chat" else {"prompt": TEXT}
    answer = server.http().post(route, json={"model": "gpt-4o", "stream": stream} | asked | bad)
    assert answer.status_code == 400 and list(answer.json()) == ["error"] and name in answer.json()["error"]


@pytest.mark.parametrize(
    "bad",
    [
        {"suffix": "x"},
        {"template": "x"},
        {"context": [1]},
        {"images": ["eA=="]},
        {"raw": True, "system": "x"},
        {"width": 5},
    ],
)
def test_what_generate_cannot_do(server: Server, bad: dict[str, Any]) -> None:
    answer = server.http().post("/api/generate", json={"model": "gpt-4o", "prompt": TEXT} | bad)
    assert answer.status_code == 400 and list(bad)[-1] in answer.json()["error"]


def test_other_errors_have_their_status(server: Server, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model="no-such", messages=MESSAGES)
    assert caught.value.status_code == 404 and "no-such" in caught.value.error
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model="model", messages=[{"role": "user", "content": "x", "images": [b"x"]}])
    assert caught.value.status_code == 400 and "images" in caught.value.error
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.generate(model="model", prompt=TEXT, options={"num_predict": 10**6}, stream=True))
    assert caught.value.status_code == 400 and "1000" in caught.value.error
    with server.http() as http:
        assert http.get("/api/chat").status_code == 405
        assert list(http.get("/api/nothing").json()) == ["error"]


def test_what_does_not_fit_is_cut_only_where_that_is_asked_for(server: Server) -> None:
    turns = [{"role": role, "content": "wide room " * 40} for role in ("user", "assistant")] * 6
    body = {"model": "model", "messages": [*turns, *MESSAGES], "stream": False, "options": {"num_predict": 2}}
    with server.http() as http:
        refused = http.post("/api/chat", json=body)
        cut = http.post("/api/chat", json=body | {"truncate": True})
    assert refused.status_code == 400 and str(CONTEXT) in refused.json()["error"]
    assert cut.json()["prompt_eval_count"] <= CONTEXT - 2 and cut.json()["normalisations"]


def test_the_guard_speaks_the_same_way() -> None:
    with fake_model() as model, serving(model, Rules(keys=("key",), max_body=500)) as guarded:
        for headers, body, status in (
            ({}, "{}", 401),
            ({"authorization": "Bearer key"}, "x" * 1000, 413),
            ({"authorization": "Bearer key", "host": "attacker.example"}, "{}", 421),
        ):
            with guarded.http(**headers) as http:
                answer = http.post("/api/chat", content=body)
            assert answer.status_code == status and isinstance(answer.json()["error"], str)
        with connect(guarded, authorization="Bearer key") as keyed:
            assert keyed.chat(model="model", messages=MESSAGES, options=OPTIONS).done


def test_results_find_their_calls() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"x": "é"}}}

    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("f"), call("g"), call("f")]},
        {"role": "tool", "content": "1", "tool_name": "g"},
        {"role": "tool", "content": "2", "tool_name": "f"},
        {"role": "tool", "content": "3"},
    ]
    read = OllamaChatRequest.model_validate({"model": "m", "messages": messages}).conversation()
    calls = read[1]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["f", "g", "f"]
    assert calls[0]["function"]["arguments"] == '{"x":"é"}'
    assert [message["tool_call_id"] for message in read[2:]] == [calls[i]["id"] for i in (1, 0, 2)]


def test_a_stream_that_is_cut_off_ends_with_an_error() -> None:
    with (
        fake_model(fake_decoder(delay=0.05)) as model,
        serving(model) as running,
        connect(running) as client,
    ):
        # The schema keeps it from ending by itself.
        parts = client.chat(model="model", messages=MESSAGES, stream=True, format=LONG)
        next(parts)
        model.close()
        with pytest.raises(ollama.ResponseError, match="cut off"):
            list(parts)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_request(slow: Server, stream: bool) -> None:
    body = {"model": "model", "messages": MESSAGES, "format": LONG, "stream": stream}
    with slow.http() as http:
        if stream:
            with http.stream("POST", "/api/chat", json=body) as answer:
                assert json.loads(next(answer.iter_lines()))["done"] is False
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/api/chat", json=body, timeout=0.5)
    assert idle(slow.model, 5)
