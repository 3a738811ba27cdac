"""A request that takes longer than the server gives it: its work ends, and its client learns why."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from gemlet.infer.scheduler import Limits
from gemlet.serve.guard import Rules
from tests.infer.fake_model import fake_decoder, fake_model
from tests.infer.test_leaving import idle
from tests.serve.conftest import Server, serving
from tests.serve.test_openai_client import MESSAGES, until

LONG = {"model": "one", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 700}
DEADLINE = 1.0


@pytest.fixture
def hasty() -> Iterator[Server]:
    with (
        fake_model(fake_decoder(delay=0.05, stop_bias=-100), reference="one") as model,
        serving(model, Rules(deadline=DEADLINE)) as running,
    ):
        yield running


def test_a_whole_answer_ends_with_a_status(hasty: Server) -> None:
    client = hasty.client().with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="one", messages=MESSAGES, max_tokens=700, extra_body={"ignore_eos": True}
        )
    assert caught.value.status_code == 504 and caught.value.code == "deadline_exceeded"
    assert f"{DEADLINE:g} seconds" in str(caught.value)
    assert idle(hasty.model, 5)
    until(lambda: len(hasty.log) >= 1)
    assert len(hasty.log) == 1  # the client did not ask again


def test_a_stream_ends_with_an_error(hasty: Server) -> None:
    parts = []
    with pytest.raises(openai.APIError) as caught:
        for part in hasty.client().chat.completions.create(
            model="one", messages=MESSAGES, max_tokens=700, stream=True, extra_body={"ignore_eos": True}
        ):
            parts.append(part)
    assert caught.value.code == "deadline_exceeded"
    assert sum(bool(part.choices[0].delta.content) for part in parts) > 1  # what was written had come
    assert idle(hasty.model, 5)
    until(lambda: len(hasty.log) == 1)
    line = json.loads(hasty.log[0])
    assert line["status"] == 200 and line["outcome"] == 504


def test_a_stream_of_named_events_ends_with_one(hasty: Server) -> None:
    create = hasty.client().responses.create
    seen = list(create(model="one", input="wide", stream=True, extra_body={"ignore_eos": True}))
    assert seen[-1].type == "error" and seen[-1].code == "deadline_exceeded"
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-2].type == "response.output_text.delta"


def test_a_stream_of_lines_ends_with_an_error(hasty: Server) -> None:
    body = {"model": "one", "prompt": "wide", "options": {"num_predict": 700}}
    with hasty.http() as http:
        lines = http.post("/api/generate", json=body).text.splitlines()
    assert f"{DEADLINE:g} seconds" in json.loads(lines[-1])["error"] and len(lines) > 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "one", "prompt": "wide", "max_tokens": 700, "ignore_eos": True}),
        ("/v1/chat/completions", LONG | {"n": 3}),
        ("/v1/embeddings", {"model": "one", "input": [[300] * 780] * 2}),
    ],
)
def test_every_kind_of_work_ends(hasty: Server, path: str, body: dict) -> None:
    with hasty.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 504 and answer.headers["x-should-retry"] == "false"
    assert idle(hasty.model, 5)


def test_the_time_in_the_queue_counts() -> None:
    limits = Limits(32, sequences=1)
    with (
        fake_model(fake_decoder(delay=0.05), limits=limits, reference="one") as model,
        serving(model, Rules(deadline=1.5)) as busy,
        busy.http() as http,
    ):
        busy_body = LONG | {"stream": True}
        hog = model.generate("wide", max_tokens=None, ignore_eos=True, stream=True)
        next(hog)
        with http.stream("POST", "/v1/chat/completions", json=busy_body) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert "deadline_exceeded" in lines[-2] and lines[-1] == "data: [DONE]"
        until(lambda: model.occupancy().waiting == 0)
        hog.close()


def test_a_client_that_does_not_read_is_cut_too() -> None:
    many = {"n": 8, "logprobs": True, "top_logprobs": 20, "stream": True}
    with (
        fake_model(fake_decoder(delay=0.005), reference="one") as model,
        serving(model, Rules(deadline=DEADLINE)) as running,
        running.http() as http,
        http.stream("POST", "/v1/chat/completions", json=LONG | many),
    ):
        assert idle(model, 10)
        until(lambda: len(running.log) == 1)
        assert json.loads(running.log[0])["outcome"] == 504


def test_answers_in_time_are_whole() -> None:
    with (
        fake_model(reference="one") as model,
        serving(model, Rules(deadline=60)) as running,
        running.http() as http,
    ):
        for stream in (False, True):
            answer = http.post("/v1/chat/completions", json=LONG | {"max_tokens": 2, "stream": stream})
            assert answer.status_code == 200 and "length" in answer.text
