"""A second door, for clients of the Ollama API: chat, generate, tags, show, version."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from gemlet.errors import InvalidRequestError, UnsupportedParameterError
from gemlet.infer.streams import AsyncAnswerStream
from gemlet.serve.body import StrictRoute
from gemlet.serve.document import (
    OllamaAnswer,
    OllamaError,
    OllamaShown,
    OllamaTags,
    OllamaVersion,
    answers,
    errors,
)
from gemlet.serve.errors import ApiError
from gemlet.serve.events import LineStream, while_connected
from gemlet.serve.ollama_schema import (
    NAMES,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaRequest,
    OllamaShowRequest,
)
from gemlet.serve.registry import Registry, Served
from gemlet.serve.shapes import chat_logprobs, finish_of, logprob_of
from gemlet.types import Completion, TokenEvent, ToolCall
from gemlet.version import __version__

Body = Callable[[str, list[dict[str, Any]]], dict[str, Any]]
"""How a route writes a piece of text with the calls that have been made."""


def add_routes(app: FastAPI, registry: Registry) -> None:
    """The routes under /api."""
    router = APIRouter(route_class=StrictRoute, responses=errors(OllamaError))

    @router.post("/api/chat", responses=answers(OllamaAnswer, stream=LineStream.media_type))
    async def ollama_chat(body: OllamaChatRequest, request: Request) -> Any:
        served = await _find(registry, body)
        if not body.messages:
            return _loaded(served, _message)
        tools = {"tools": body.tools} if body.tools else {}
        options = body.answer_options() | tools
        answer = served.model.achat(body.conversation(), stream=True, adapter=served.adapter, **options)
        return await _answered(request, served, body, answer, _message)

    @router.post("/api/generate", responses=answers(OllamaAnswer, stream=LineStream.media_type))
    async def ollama_generate(body: OllamaGenerateRequest, request: Request) -> Any:
        served = await _find(registry, body)
        if not body.prompt:
            return _loaded(served, _response)
        if body.raw and body.system:
            raise UnsupportedParameterError("system", "system: a raw prompt has no place for it")
        begin = served.model.agenerate if body.raw else served.model.achat
        asked: Any = body.prompt if body.raw else body.conversation()
        answer = begin(asked, stream=True, adapter=served.adapter, **body.answer_options())
        return await _answered(request, served, body, answer, _response)

    @router.get("/api/tags", responses=answers(OllamaTags))
    async def ollama_tags() -> Any:
        return {"models": [_tag(served) for served in registry.all()]}

    @router.post("/api/show", responses=answers(OllamaShown))
    async def ollama_show(body: OllamaShowRequest) -> Any:
        if body.model is None and body.name is None:
            raise ApiError(400, "model: a name is needed", param="model")
        return _show(registry.find(_bare(body.model if body.model is not None else body.name)))

    @router.get("/api/version", responses=answers(OllamaVersion))
    async def ollama_version() -> Any:
        return {"version": __version__}

    app.include_router(router)


async def _find(registry: Registry, body: OllamaRequest) -> Served:
    served = await registry.open(_bare(body.model))
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true")
    wanted = body.options.num_ctx if body.options is not None else None
    if wanted is not None and wanted > served.model.context:
        held = f"the context holds {served.model.context} tokens"
        raise UnsupportedParameterError("options.num_ctx", f"options.num_ctx: {wanted} are asked for, {held}")
    return served


def _bare(name: str | None) -> str | None:
    return name if name is None else name.removesuffix(":latest")


async def _answered(
    request: Request, served: Served, body: OllamaRequest, answer: AsyncAnswerStream, shape: Body
) -> Response | dict[str, Any]:
    began = time.perf_counter()
    if body.stream is False:
        return await while_connected(request, _collect(served, body, answer, shape, began))
    await while_connected(request, answer.start())  # what is refused is refused with its status
    idle = _head(served) | shape("", []) | {"done": False}
    return LineStream(_stream(served, body, answer, shape, began), idle)


async def _collect(
    served: Served, body: OllamaRequest, answer: AsyncAnswerStream, shape: Body, began: float
) -> dict[str, Any]:
    async with aclosing(answer):
        async for _ in answer:
            pass
    (done,) = answer.completions
    whole = _head(served) | shape(done.text, _calls(done.tool_calls)) | _last(done, began)
    if body.logprobs and done.logprobs is not None:
        content = chat_logprobs(served.model.tokenizer, done.logprobs, body.top_logprobs or 0)["content"]
        whole["logprobs"] = content
    return whole


async def _stream(
    served: Served, body: OllamaRequest, answer: AsyncAnswerStream, shape: Body, began: float
) -> AsyncIterator[dict[str, Any]]:
    async with aclosing(answer):
        async for event in answer:
            logprobs = _logprobs(served, body, event)
            if event.text or logprobs:
                yield _head(served) | shape(event.text, []) | {"done": False} | logprobs
            done = event.completion
            if done is not None:
                calls = _calls(done.tool_calls)  # the form has no pieces of a call
                if calls:
                    yield _head(served) | shape("", calls) | {"done": False}
                yield _head(served) | shape("", []) | _last(done, began)


def _logprobs(served: Served, body: OllamaRequest, event: TokenEvent) -> dict[str, Any]:
    token = logprob_of(served.model.tokenizer, event) if body.logprobs else None
    if token is None:
        return {}
    return {"logprobs": chat_logprobs(served.model.tokenizer, [token], body.top_logprobs or 0)["content"]}


def _message(text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return {"message": message | {"tool_calls": calls} if calls else message}


def _response(text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text}


def _calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Whole calls. One that the answer's end cut short is left out: its arguments are no object."""
    whole = []
    for index, call in enumerate(calls):
        with suppress(json.JSONDecodeError):
            arguments = json.loads(call.arguments)
            function = {"index": index, "name": call.name, "arguments": arguments}
            whole.append({"id": call.id, "function": function})
    return whole


def _loaded(served: Served, shape: Body) -> dict[str, Any]:
    """What a request without a prompt is for: whether the model is loaded."""
    return _head(served) | shape("", []) | {"done": True, "done_reason": "load"}


def _head(served: Served) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {"model": served.name, "created_at": now.isoformat().replace("+00:00", "Z")}


def _last(done: Completion, began: float) -> dict[str, Any]:
    """The counts and times of an answer. There is no load: the model was there."""
    finish, times = finish_of(done), done.timings
    return {
        "done": True,
        "done_reason": "length" if finish == "length" else "stop",
        "total_duration": _nanoseconds(time.perf_counter() - began),
        "load_duration": 0,
        "prompt_eval_count": done.usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(times.prefill_s),
        "eval_count": done.usage.completion_tokens,
        "eval_duration": _nanoseconds(times.decode_s),
        "normalisations": list(done.normalisations),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _details(served: Served) -> dict[str, Any]:
    family = served.facts.config.family
    return {
        "parent_model": "",
        "format": "gguf" if ".gguf" in served.facts.reference else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _short(sum(served.facts.config.parameter_counts().values())),
        "quantization_level": served.facts.manifest.weights_type,
    }


def _short(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 999_500_000 else f"{count / 1e6:.2f}M"


def _tag(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": _time(served.created),
        "digest": served.facts.manifest.weights_sha256,
        "details": _details(served),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def _show(served: Served) -> dict[str, Any]:
    model, config = served.facts, served.facts.config
    called = {ours: theirs for theirs, ours in NAMES.items()}
    parameters = [
        f"{called.get(field.name, field.name)} {value}"
        for field in fields(model.sampling)
        if isinstance(value := getattr(model.sampling, field.name), (int, float))
    ]
    return {
        "modified_at": _time(served.created),
        "details": _details(served),
        "parameters": "\n".join(parameters),
        "capabilities": ["completion", "tools"],
        "model_info": {
            "general.architecture": config.family,
            "general.parameter_count": sum(config.parameter_counts().values()),
            f"{config.family}.block_count": config.num_layers,
            f"{config.family}.context_length": model.context,
            f"{config.family}.embedding_length": config.hidden_size,
            f"{config.family}.vocab_size": config.vocab_size,
        },
    }
