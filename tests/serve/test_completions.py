"""Texts and their tokens: where these begin, and what is said and shown of prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.infer.fake_model import CONTEXT, VOCABULARY, small_tokenizer
from tests.serve.conftest import Server

WORD = max(range(300, VOCABULARY), key=lambda token: len(small_tokenizer().piece(token)))
TEXT = small_tokenizer().decode([WORD])
BYTES = small_tokenizer().encode("😀")
"""A character of four tokens."""


def post(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.http().post("/v1/completions", json={"model": "gpt-4o"} | body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def streamed(server: Server, **body: Any) -> list[dict[str, Any]]:
    with server.http().stream(
        "POST", "/v1/completions", json={"model": "gpt-4o", "stream": True} | body
    ) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
    return [choice for line in lines for choice in json.loads(line)["choices"]]


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_left_out_of_a_prompt_is_said(server: Server, stream: bool) -> None:
    prompt, asked = [2, *[WORD] * CONTEXT], {"max_tokens": 2, "truncation": "auto", "seed": 1}
    expected = server.model.generate(prompt, **asked)
    assert expected.normalisations
    if stream:
        with server.http().stream(
            "POST", "/v1/completions", json={"model": "gpt-4o", "prompt": prompt, "stream": True} | asked
        ) as answer:
            assert expected.normalisations[0] in answer.read().decode()
        return
    done = post(server, prompt=prompt, **asked)
    assert done["normalisations"] == list(expected.normalisations)
    assert done["usage"]["prompt_tokens"] == expected.usage.prompt_tokens == CONTEXT - 2
    assert done["timings"]["ttft_s"] > 0
    both = post(server, prompt=[[2, WORD], prompt], **asked)
    assert both["normalisations"] == [f"prompt[1]: {line}" for line in expected.normalisations]


def test_a_prompt_that_is_only_read_has_nothing_said_about_it(server: Server) -> None:
    assert post(server, prompt="wide", max_tokens=0, echo=True)["normalisations"] == []


def test_tokens_begin_where_their_text_does(server: Server) -> None:
    """Also those that are a part of a character, and behind it."""
    prompt = [2, *BYTES, WORD, *BYTES, WORD]
    done = post(server, prompt=prompt, max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert done["text"] == f"😀{TEXT}😀{TEXT}" and len(TEXT) > 1 and len(BYTES) == 4
    second = 1 + len(TEXT)
    offsets = done["logprobs"]["text_offset"]
    assert offsets == [0, 0, 0, 0, 0, 1, second, second, second, second, second + 1]
    assert done["text"][offsets[-1] :] == done["logprobs"]["tokens"][-1] == TEXT


@pytest.mark.parametrize("stop", [[], [TEXT * 20]])
def test_a_stream_tells_the_same_places(server: Server, stop: list[str]) -> None:
    """Text that is held back, since a stop text may begin with it, has its tokens counted all the same."""
    prompt = small_tokenizer().encode("wide", bos=True)
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 12, "logprobs": 1, "seed": 1, "stop": stop}
    asked |= {"logit_bias": {str(token): 100 for token in [WORD, *BYTES]}}
    whole = post(server, **asked)["choices"][0]
    pieces = streamed(server, **asked)
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for piece in pieces if piece["logprobs"] for value in piece["logprobs"][name]] == values
    assert len(set(whole["logprobs"]["text_offset"])) > 2


def test_a_rendered_conversation_is_shown_with_its_turns(server: Server) -> None:
    """And without the BOS, which a text that is sent on is given."""
    messages = [{"role": "user", "content": "wide"}, {"role": "assistant", "content": "area"}]
    tokenizer, ids = server.model.tokenizer, server.model.render([*messages, messages[0]])
    answer = server.http().post("/apply-template", json={"messages": [*messages, messages[0]]}).json()
    assert answer["tokens"] == ids and ids.count(tokenizer.bos_id) == 1
    controls = [token for token in ids[1:] if tokenizer.is_control(token)]
    assert len(controls) == 7 and len(set(controls)) == 2
    begin, end = (tokenizer.shown([token]) for token in sorted(set(controls)))
    assert answer["prompt"] == (
        f"{begin}user\nwide{end}\n{begin}model\narea{end}\n{begin}user\nwide{end}\n{begin}model\n"
    )
    assert begin and end and tokenizer.shown([*BYTES, WORD]) == f"😀{TEXT}"
