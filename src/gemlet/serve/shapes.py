"""The objects that answers are made of, as the OpenAI API writes them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gemlet.infer.answer import token_logprob
from gemlet.serve.errors import ApiError
from gemlet.serve.registry import Served
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Completion, TokenEvent, TokenLogprob, ToolCall, ToolCallDelta, as_dict


def head_of(served: Served, kind: str, prefix: str) -> dict[str, Any]:
    """What every object of an answer begins with. The id, such as chatcmpl-…, is never the same twice."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.fingerprint,
    }


def usage_of(choices: Sequence[Completion]) -> dict[str, Any]:
    """The counts of one request: its prompt counts once, however many choices it has."""
    prompt = choices[0].usage
    written = sum(done.usage.completion_tokens for done in choices)
    return usage(prompt.prompt_tokens, written, prompt.cached_tokens)


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def finish_of(completion: Completion) -> str:
    """Why an answer ended. ApiError for one that was cut off: nobody is to take it for a whole one."""
    if completion.finish_reason == "cancelled":
        raise ApiError(503, "the answer was cut off: the model was closed", type="server_error")
    return completion.finish_reason


def call_of(call: ToolCall) -> dict[str, Any]:
    """A whole call."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def call_delta(delta: ToolCallDelta) -> dict[str, Any]:
    """A piece of a streamed call: its first one names it, the others bring its arguments."""
    if delta.id is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {"index": delta.index} | call_of(ToolCall(delta.id, delta.name or "", delta.arguments))


def logprob_of(tokenizer: Tokenizer, event: TokenEvent) -> TokenLogprob | None:
    """A streamed token with its log-probability, if it has one."""
    if event.token_id is None or event.logprob is None:
        return None
    return replace(token_logprob(tokenizer, event.token_id, event.logprob), top=event.top)


def about(completion: Completion) -> dict[str, Any]:
    """What no other API tells: where the time went, in seconds, why a prefix was read again, and what was
    changed about the request.
    """
    return {"timings": as_dict(completion.timings), "normalisations": list(completion.normalisations)}


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], top: int) -> dict[str, Any]:
    """The shape of chat completions."""

    def one(token: TokenLogprob) -> dict[str, Any]:
        piece = list(tokenizer.piece(token.token_id))
        return {"token": token.token, "logprob": token.logprob, "bytes": piece}

    content = [one(token) | {"top_logprobs": [one(other) for other in token.top[:top]]} for token in tokens]
    return {"content": content, "refusal": None}


def legacy_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[TokenLogprob | int], top: int, offset: int = 0
) -> dict[str, Any]:
    """The shape of completions; a bare id is a token without a log-probability, as a prompt's first.

    A token that is no whole text is written as its bytes, so that two of them never have one key.
    """
    names: list[str] = []
    offsets: list[int] = []
    for token in tokens:
        piece = tokenizer.piece(token if isinstance(token, int) else token.token_id)
        offsets.append(offset)
        names.append(_name(piece))
        offset += len(piece.decode("utf-8", errors="replace"))
    alternatives = [
        None
        if isinstance(token, int)
        else {_name(tokenizer.piece(other.token_id)): other.logprob for other in token.top[:top]}
        for token in tokens
    ]
    return {
        "tokens": names,
        "token_logprobs": [None if isinstance(token, int) else token.logprob for token in tokens],
        "top_logprobs": alternatives,
        "text_offset": offsets,
    }


def _name(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
