"""Every field that OpenAI documents, as its package has it: done, without effect and said so, or refused."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams

from gemlet.serve.responses_schema import ResponsesRequest
from gemlet.serve.schema import NO_EFFECT, REFUSED, ChatRequest, CompletionRequest
from tests.infer.test_tools import TOOLS
from tests.serve.conftest import Server

FLAT = [{"type": "function"} | tool["function"] for tool in TOOLS]

COMMON: dict[str, Any] = {
    "model": "model",
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "temperature": 0.5,
    "top_p": 0.5,
    "user": "me",
}
GENERATION = COMMON | {
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"300": -100},
    "max_tokens": 3,
    "n": 2,
    "seed": 5,
    "stop": ["zz"],
    "stream_options": {"include_usage": True},
}
SHARED = {
    "metadata": {"a": "b"},
    "moderation": {"model": "omni-moderation-latest"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "key",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "me",
    "service_tier": "auto",
    "store": True,
    "tool_choice": "auto",
}

SENT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": GENERATION
    | SHARED
    | {
        "messages": [{"role": "user", "content": "wide"}],
        "audio": {"voice": "alloy", "format": "wav"},
        "function_call": "auto",
        "functions": [{"name": "f"}],
        "logprobs": True,
        "max_completion_tokens": 3,
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "wide"},
        "reasoning_effort": "none",
        "response_format": {"type": "text"},
        "tools": TOOLS,
        "top_logprobs": 2,
        "verbosity": "low",
        "web_search_options": {},
    },
    "/v1/completions": GENERATION
    | {"prompt": "wide", "best_of": 1, "echo": True, "logprobs": 2, "suffix": "room"},
    "/v1/responses": COMMON
    | SHARED
    | {
        "input": "wide",
        "access_programs": {"cyber": "standard"},
        "background": True,
        "background_options": {"completion_window": "soonest"},
        "context_management": [{"type": "compaction"}],
        "conversation": "conv_1",
        "image": {"context_compression": "auto"},
        "include": ["message.output_text.logprobs"],
        "instructions": "be wide",
        "max_output_tokens": 3,
        "max_tool_calls": 3,
        "previous_response_id": "resp_1",
        "prompt": {"id": "pmpt_1"},
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "text"}},
        "tools": FLAT,
        "top_logprobs": 2,
        "truncation": "disabled",
    },
}
WITH = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True, "include": ["message.output_text.logprobs"]},
    "tool_choice": {"tools": None},
}
"""What a field needs beside it."""

ROUTES = {
    "/v1/chat/completions": (ChatParams, ChatRequest, ("model", "messages", "max_tokens")),
    "/v1/completions": (TextParams, CompletionRequest, ("model", "prompt", "max_tokens")),
    "/v1/responses": (ResponseParams, ResponsesRequest, ("model", "input", "max_output_tokens")),
}
FIELDS = [(path, field) for path, (params, _, _) in ROUTES.items() for field in get_type_hints(params)]
OFF = ("store", "background")
"""Fields that take false alone."""


@pytest.mark.parametrize(("path", "field"), FIELDS)
def test_no_documented_field_is_ignored(server: Server, path: str, field: str) -> None:
    _, schema, needed = ROUTES[path]
    sent = SENT[path]
    assert field in sent, f"the API has a new field, {field}: say what is done with it"
    said = schema.model_fields[field].description or ""
    beside = {name: sent[name] if value is None else value for name, value in WITH.get(field, {}).items()}
    body = {name: sent[name] for name in needed} | beside | {field: sent[field]}
    body = {name: value for name, value in body.items() if name in schema.model_fields}
    answer = server.http().post(path, json=body)
    if said.startswith(REFUSED) or field in OFF:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
        assert field in OFF or said.removeprefix(REFUSED).rstrip(".") in error["message"]
        refused = {name: value for name, value in body.items() if name != field}
        off = None if said.startswith(REFUSED) else False
        assert server.http().post(path, json=refused | {field: off}).status_code == 200
    else:
        assert answer.status_code == 200, answer.text
        assert said.removeprefix(NO_EFFECT)


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_not_documented_is_refused(server: Server, path: str) -> None:
    _, _, needed = ROUTES[path]
    for field in ("temprature", "Temperature", "max_new_tokens", "", "é", "__class__", "model_config"):
        body = {name: SENT[path][name] for name in needed} | {field: None}
        error = server.http().post(path, json=body).json()["error"]
        assert (error["code"], error["param"]) == ("unknown_parameter", field)


@pytest.mark.parametrize("schema", [ChatRequest, CompletionRequest, ResponsesRequest])
def test_every_field_says_what_it_does(schema: Any) -> None:
    assert not [name for name, field in schema.model_fields.items() if not field.description]
