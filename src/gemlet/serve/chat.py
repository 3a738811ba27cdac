"""`POST /v1/chat/completions`: the request handed to the model, its answer in the API's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from gemlet.infer.streams import AsyncAnswerStream
from gemlet.serve.registry import Served
from gemlet.serve.schema import ChatRequest
from gemlet.serve.shapes import (
    about,
    call_deltas,
    call_of,
    chat_logprobs,
    finish_of,
    head_of,
    logprob_of,
    usage_of,
)
from gemlet.types import Completion


def start(served: Served, request: ChatRequest) -> AsyncAnswerStream:
    """The answer, not yet begun; `await` it to learn whether it is taken."""
    answer: AsyncAnswerStream = served.model.achat(
        request.messages, stream=True, adapter=served.adapter, **request.options()
    )
    return answer


async def collect(served: Served, request: ChatRequest, answer: AsyncAnswerStream) -> dict[str, Any]:
    """The whole answer."""
    async with aclosing(answer):
        async for _ in answer:
            pass
    done = answer.completions
    return (
        head_of(served, "chat.completion", "chatcmpl")
        | {
            "choices": [_choice(served, request, index, one) for index, one in enumerate(done)],
            "usage": usage_of(done),
        }
        | about(done[0])
    )


async def stream(
    served: Served, request: ChatRequest, answer: AsyncAnswerStream
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of the answer."""
    head = head_of(served, "chat.completion.chunk", "chatcmpl")
    counts = request.stream_options is not None and bool(request.stream_options.include_usage)
    if counts:
        head["usage"] = None

    def chunk(
        index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return head | {"choices": [choice]}

    async with aclosing(answer):
        for index in range(request.n or 1):
            yield chunk(index, {"role": "assistant", "content": ""})
        async for event in answer:
            logprobs, token = None, logprob_of(served.model.tokenizer, event)
            if request.logprobs and token is not None:
                logprobs = chat_logprobs(served.model.tokenizer, [token], request.top_logprobs or 0)
            if event.text or logprobs is not None:
                yield chunk(event.index, {"content": event.text}, logprobs=logprobs)
            if event.tool_calls:
                yield chunk(event.index, {"tool_calls": call_deltas(event.tool_calls)})
            if event.completion is not None:
                last = chunk(event.index, {}, finish_of(event.completion))
                yield last | about(event.completion)
        if counts:
            done = answer.completions
            yield head | {"choices": [], "usage": usage_of(done)} | about(done[0])


def _choice(served: Served, request: ChatRequest, index: int, done: Completion) -> dict[str, Any]:
    logprobs = None
    if request.logprobs and done.logprobs is not None:
        logprobs = chat_logprobs(served.model.tokenizer, done.logprobs, request.top_logprobs or 0)
    message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
    if done.tool_calls:
        message["content"] = done.text or None
        message["tool_calls"] = [call_of(call) for call in done.tool_calls]
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_of(done)}
