"""The objects that answers are made of, as the OpenAI API writes them."""

from __future__ import annotations

import codecs
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


def call_deltas(deltas: Sequence[ToolCallDelta]) -> list[dict[str, Any]]:
    """The pieces of streamed calls in one chunk, one for each call: clients join pieces by their place.

    A call's first piece names it, the others bring its arguments.
    """
    joined: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        before = joined.get(delta.index)
        together = delta if before is None else replace(before, arguments=before.arguments + delta.arguments)
        joined[delta.index] = together
    return [_call_delta(delta) for delta in joined.values()]


def _call_delta(delta: ToolCallDelta) -> dict[str, Any]:
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


class TextOffsets:
    """Where the tokens of one text begin, in characters; tokens that share one begin where it does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._end = 0

    def of_next(self, token_id: int) -> int:
        """Where the next token begins."""
        begin = self._end
        self._end += len(self._decoder.decode(self._tokenizer.piece(token_id)))
        return begin


def legacy_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[TokenLogprob | int],
    top: int,
    offsets: TextOffsets | None = None,
) -> dict[str, Any]:
    """The shape of completions; a bare id is a token without a log-probability, as a prompt's first.

    A token that is no whole text is written as its bytes, so that two of them never have one key. `offsets`
    knows the tokens before these; None: there are none.
    """
    offsets = offsets or TextOffsets(tokenizer)
    ids = [token if isinstance(token, int) else token.token_id for token in tokens]
    alternatives = [
        None
        if isinstance(token, int)
        else {_name(tokenizer.piece(other.token_id)): other.logprob for other in token.top[:top]}
        for token in tokens
    ]
    return {
        "tokens": [_name(tokenizer.piece(token_id)) for token_id in ids],
        "token_logprobs": [None if isinstance(token, int) else token.logprob for token in tokens],
        "top_logprobs": alternatives,
        "text_offset": [offsets.of_next(token_id) for token_id in ids],
    }


def _name(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
