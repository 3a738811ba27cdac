"""`POST /v1/completions`: several prompts, echo, and log-probabilities of prompts as lm-eval reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gemlet.errors import UnsupportedParameterError
from gemlet.infer.streams import AsyncAnswerStream
from gemlet.serve.registry import Served
from gemlet.serve.schema import CompletionRequest, One
from gemlet.serve.shapes import (
    TextOffsets,
    about,
    finish_of,
    head_of,
    legacy_logprobs,
    logprob_of,
    usage,
    usage_of,
)
from gemlet.types import Completion, TokenLogprob


@dataclass(frozen=True)
class _Part:
    """What one prompt was answered with. `done` is None where it was only read."""

    choices: list[dict[str, Any]]
    usage: tuple[int, int, int]  # tokens of the prompt, of the answers, and from the cache
    done: Completion | None


async def collect(served: Served, request: CompletionRequest) -> dict[str, Any]:
    """All answers to all prompts, computed together."""
    answers = [asyncio.ensure_future(_answer(served, request, prompt)) for prompt in request.prompt]
    try:
        parts = await asyncio.gather(*answers)
    finally:
        for answer in answers:
            answer.cancel()
    choices = [choice for part in parts for choice in part.choices]
    for index, choice in enumerate(choices):
        choice["index"] = index
    return (
        head_of(served, "text_completion", "cmpl")
        | {
            "choices": choices,
            "usage": usage(*map(sum, zip(*(part.usage for part in parts), strict=True))),
        }
        | _about([part.done for part in parts])
    )


def _about(parts: Sequence[Completion | None]) -> dict[str, Any]:
    """`about` for several prompts: lines name theirs, and no times are told, which overlap."""
    if len(parts) == 1 and parts[0] is not None:
        return about(parts[0])
    lines = [f"prompt[{i}]: {line}" for i, done in enumerate(parts) if done for line in done.normalisations]
    return {"normalisations": lines}


async def _answer(served: Served, request: CompletionRequest, prompt: One) -> _Part:
    tokenizer = served.model.tokenizer
    if isinstance(prompt, str):  # a long text takes a while: others go on
        ids = await asyncio.to_thread(tokenizer.encode, prompt, bos=True)
    else:
        ids = prompt
    options, top = request.options(), request.logprobs
    before: list[TokenLogprob | int] = []
    if request.echo and top is not None:
        read = await served.model.aprompt_logprobs(ids, top, adapter=served.adapter)
        before = [*ids[:1], *read]
    # An echo shows the prompt as it was sent: the BOS that text is given is no part of it.
    shown = "" if not request.echo else prompt if isinstance(prompt, str) else tokenizer.decode(ids)
    if options["max_tokens"] == 0:
        return _Part([_choice(served, shown, before, (), "length", top)], (len(ids), 0, 0), None)
    done = await served.model.agenerate(ids, adapter=served.adapter, **options)
    completions: Sequence[Completion] = done if isinstance(done, list) else [done]
    choices = [
        _choice(served, shown + one.text, before, one.logprobs or (), finish_of(one), top)
        for one in completions
    ]
    first = completions[0]
    written = sum(one.usage.completion_tokens for one in completions)
    return _Part(choices, (first.usage.prompt_tokens, written, first.usage.cached_tokens), first)


def _choice(
    served: Served,
    text: str,
    before: Sequence[TokenLogprob | int],
    tokens: Sequence[TokenLogprob],
    finish: str,
    top: int | None,
) -> dict[str, Any]:
    logprobs = None if top is None else legacy_logprobs(served.model.tokenizer, [*before, *tokens], top)
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}


def start(served: Served, request: CompletionRequest) -> AsyncAnswerStream:
    """The answer to the one prompt of a stream. UnsupportedParameterError for what streams do not do."""
    prompts = request.prompt
    if len(prompts) != 1:
        raise UnsupportedParameterError("prompt", "a stream takes one prompt")
    if request.echo and (request.logprobs is not None or request.max_tokens == 0):
        raise UnsupportedParameterError("echo", "a stream does not tell the log-probabilities of its prompt")
    answer: AsyncAnswerStream = served.model.agenerate(
        prompts[0], stream=True, adapter=served.adapter, **request.options()
    )
    return answer


async def stream(
    served: Served, request: CompletionRequest, answer: AsyncAnswerStream
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of the answer to one prompt."""
    head, tokenizer = head_of(served, "text_completion", "cmpl"), served.model.tokenizer
    counts = request.stream_options is not None and bool(request.stream_options.include_usage)
    (prompt,) = request.prompt
    if request.echo:
        shown = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        for index in range(request.n or 1):
            yield head | {
                "choices": [{"index": index, "text": shown, "logprobs": None, "finish_reason": None}]
            }
    offsets = [TextOffsets(tokenizer) for _ in range(request.n or 1)]
    async with aclosing(answer):
        async for event in answer:
            logprobs, token = None, logprob_of(tokenizer, event)
            if request.logprobs is not None and token is not None:
                logprobs = legacy_logprobs(tokenizer, [token], request.logprobs, offsets[event.index])
            choice = {
                "index": event.index,
                "text": event.text,
                "logprobs": logprobs,
                "finish_reason": None if event.completion is None else finish_of(event.completion),
            }
            extra = {} if event.completion is None else about(event.completion)
            yield head | {"choices": [choice]} | extra
        if counts:
            done = answer.completions
            yield head | {"choices": [], "usage": usage_of(done)} | about(done[0])
