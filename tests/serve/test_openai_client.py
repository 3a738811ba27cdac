"""The official client against the server: what the library answers, in the API's shape."""

from __future__ import annotations

import base64
import threading

import httpx
import numpy as np
import openai
import pytest

from gemlet.infer.scheduler import Limits
from tests.infer.fake_model import fake_decoder, fake_model
from tests.infer.test_leaving import idle
from tests.serve.conftest import Server, serving, until

MESSAGES = [{"role": "user", "content": "The area of a wide room"}]
OPTIONS = {"max_tokens": 12, "seed": 3, "temperature": 0.8}


def test_a_chat_is_the_librarys(server: Server) -> None:
    expected = server.model.chat(MESSAGES, **OPTIONS)
    done = server.client().chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, **OPTIONS)
    (choice,) = done.choices
    assert choice.message.content == expected.text and choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason
    assert done.usage.prompt_tokens == expected.usage.prompt_tokens
    assert done.usage.completion_tokens == expected.usage.completion_tokens
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.model == server.client().models.list().data[0].id  # who answered, not who was asked


def test_a_stream_is_the_same_text(server: Server) -> None:
    expected = server.model.chat(MESSAGES, **OPTIONS)
    chunks = list(
        server.client().chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            **OPTIONS,
        )
    )
    *parts, last = chunks
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == expected.text
    assert [part.choices[0].finish_reason for part in parts][-1] == expected.finish_reason
    assert all(part.choices[0].finish_reason is None for part in parts[:-1])
    assert last.choices == [] and last.usage.completion_tokens == expected.usage.completion_tokens
    assert last.usage.prompt_tokens_details.cached_tokens >= 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_and_log_probabilities(server: Server) -> None:
    expected = server.model.chat(MESSAGES, n=3, logprobs=2, **OPTIONS)
    create = server.client().chat.completions.create
    asked = {"model": "gpt-4o", "messages": MESSAGES, "n": 3, "logprobs": True, "top_logprobs": 2, **OPTIONS}
    done = create(**asked)
    assert [choice.message.content for choice in done.choices] == [one.text for one in expected]
    for choice, one in zip(done.choices, expected, strict=True):
        assert [token.logprob for token in choice.logprobs.content] == [
            token.logprob for token in one.logprobs
        ]
        tops = [[other.token for other in token.top_logprobs] for token in choice.logprobs.content]
        assert tops == [[other.token for other in token.top] for token in one.logprobs]
    streamed: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for chunk in create(stream=True, **asked):
        for choice in chunk.choices:
            for token in choice.logprobs.content if choice.logprobs else ():
                assert len(token.top_logprobs) == 2
                streamed[choice.index].append(token.logprob)
    assert streamed == {i: [token.logprob for token in one.logprobs] for i, one in enumerate(expected)}


def test_every_sampling_parameter_reaches_the_model(server: Server) -> None:
    extra = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.2, "ignore_eos": True}
    given = {"top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.2, **OPTIONS}
    expected = server.model.chat(MESSAGES, logit_bias={300: 3.0}, stop="zz", **extra, **given)
    done = server.client().chat.completions.create(
        model="gpt-4o", messages=MESSAGES, logit_bias={"300": 3.0}, stop=["zz"], extra_body=extra, **given
    )
    assert done.choices[0].message.content == expected.text


def test_completions_of_several_prompts(server: Server) -> None:
    prompts = ["The area of a wide room", "wide"]
    done = server.client().completions.create(model="gpt-4o", prompt=prompts, n=2, **OPTIONS)
    expected = [one.text for prompt in prompts for one in server.model.generate(prompt, n=2, **OPTIONS)]
    assert [choice.text for choice in done.choices] == expected
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echo_tells_what_lm_eval_reads(server: Server, max_tokens: int) -> None:
    """Sums and greedy flags of continuations, as the harness takes them from the arrays."""
    context, continuation = [2, 300, 301], [302, 310]
    done = server.client().completions.create(
        model="gpt-4o", prompt=[context + continuation], max_tokens=max_tokens, echo=True, logprobs=1, seed=1
    )
    numbers = done.choices[0].logprobs
    assert len(numbers.tokens) == len(numbers.text_offset) == 5 + max_tokens
    assert numbers.token_logprobs[0] is None and numbers.top_logprobs[0] is None
    last = len(context) + len(continuation)
    values, tops = numbers.token_logprobs[len(context) : last], numbers.top_logprobs[len(context) : last]
    expected = server.model.score(context, continuation)
    assert values == list(expected.token_logprobs)
    greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
    assert greedy == expected.is_greedy


def test_embeddings_in_both_encodings(server: Server) -> None:
    texts = ["area of a room", "wide"]
    expected = server.model.embed(texts)
    create = server.client().embeddings.create
    as_floats = create(model="text-embedding-3-small", input=texts, encoding_format="float")
    assert np.array_equal(np.array([one.embedding for one in as_floats.data], np.float32), expected)
    by_default = create(model="text-embedding-3-small", input=[server.model.tokenize(text) for text in texts])
    assert np.array_equal(np.array([one.embedding for one in by_default.data], np.float32), expected)
    raw = server.http().post(
        "/v1/embeddings", json={"model": "o3", "input": "wide", "encoding_format": "base64"}
    )
    decoded = np.frombuffer(base64.b64decode(raw.json()["data"][0]["embedding"]), "<f4")
    assert np.array_equal(decoded, expected[1])


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": 5}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"colour": "red"}, "colour"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"functions": []}, "functions"),
        ({"store": True}, "store"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"regex": "(", "stream": True}, "regex"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "x"}]}, "messages[1].role"),
        ({"stop": ""}, "stop"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Server, bad: dict, param: str) -> None:
    body = {"model": "gpt-4o", "messages": MESSAGES} | bad
    answer = server.http().post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error" and error["message"]
    assert error["param"] == param and error["code"]


def test_other_errors_have_their_status(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10**6)
    assert caught.value.code == "context_length_exceeded" and "1000" in str(caught.value)
    assert caught.value.param == "messages"
    with server.http() as http:
        assert http.get("/nowhere").json()["error"]["message"]
        assert http.get("/v1/chat/completions").status_code == 405
        for body in (b"{", b"[]", b'{"model": NaN}', b"[" * 100_000, b"\xff"):
            answer = http.post(
                "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400 and answer.json()["error"]["message"]
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("base", ["", "/v1/v1", "/v1/"])
def test_a_wrong_base_url_is_told_apart(server: Server, base: str) -> None:
    """httpx joins a base URL that ends in a slash to a path that begins with one."""
    with server.http() as http:
        for route in ("chat/completions", "completions", "responses", "embeddings"):
            answer = http.post(f"{base}/{route}", json={})
            assert answer.status_code == 404
            message = answer.json()["error"]["message"]
            assert f"/v1/{route} here" in message and "base URL" in message
        assert "base URL" not in http.post("/v1/audio/speech", json={}).json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_request(slow: Server, stream: bool) -> None:
    body = {"model": "gpt-4o", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 200, "stream": stream}
    with slow.http() as http:
        if stream:
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert next(answer.iter_lines()).startswith("data: ")
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=0.5)
    assert idle(slow.model, 5)  # 200 steps would take 20 seconds


def test_words_of_a_prompt_are_not_in_the_log(server: Server) -> None:
    secret = "wide-secret"
    before = len(server.log)
    server.client().chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": secret}], max_tokens=1
    )
    until(lambda: len(server.log) > before)
    assert not any(secret in line for line in server.log)


@pytest.mark.parametrize("prompt", [[], [[]], [["x"]], 5, {}, [1, "x"], [True], [[1], None], None])
@pytest.mark.parametrize(("route", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_prompts_that_are_none(server: Server, route: str, field: str, prompt: object) -> None:
    answer = server.http().post(route, json={"model": "gpt-4o", field: prompt})
    error = answer.json()["error"]
    assert answer.status_code == 400
    if prompt not in ([], [[]]):
        assert error["param"] == field and ("token ids" in error["message"]), error


def test_a_body_that_is_not_said_to_be_json(server: Server) -> None:
    answer = server.http().post(
        "/tokenize", content=b'{"content": "x"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 400 and "Content-Type: application/json" in answer.json()["error"]["message"]


def test_the_form_that_every_answer_has(server: Server) -> None:
    create = server.client().chat.completions.create
    plain = create(model="gpt-4o", messages=MESSAGES, **OPTIONS)
    asked = create(model="gpt-4o", messages=MESSAGES, response_format={"type": "text"}, **OPTIONS)
    assert asked.choices[0].message.content == plain.choices[0].message.content


def test_a_full_queue_says_when_to_come_again() -> None:
    limits = Limits(32, sequences=1, waiting=1)
    body = {"model": "gpt-4o", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 100, "stream": True}
    with (
        fake_model(fake_decoder(delay=0.05), limits=limits) as model,
        serving(model) as busy,
        busy.http() as http,
    ):
        post = "POST", "/v1/chat/completions"
        with http.stream(*post, json=body):
            until(lambda: model.occupancy().running == 1)  # before that it has the one place in the line
            with http.stream(*post, json=body), pytest.raises(openai.RateLimitError) as caught:
                busy.client().chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert caught.value.response.headers["retry-after"] == "1"
        assert idle(model, 5)


def test_an_answer_cut_off_is_not_taken_for_a_whole_one() -> None:
    body = {"model": "gpt-4o", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 100}
    with fake_model(fake_decoder(delay=0.05)) as model, serving(model) as server, server.http() as http:
        threading.Timer(0.5, model.close).start()
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 503 and "cut off" in answer.json()["error"]["message"]


def test_a_defect_is_logged_by_its_place_and_not_by_its_words(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("words of a prompt")

    monkeypatch.setattr(server.model, "detokenize", broken)
    answer = server.http().post("/detokenize", json={"tokens": [5]})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    until(lambda: any("ZeroDivisionError" in line for line in server.log))
    assert not any("words of" in line for line in [*server.log, answer.text])
