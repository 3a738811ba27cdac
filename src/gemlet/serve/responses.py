"""`POST /v1/responses`: the text part of the Responses API, without a memory of earlier ones."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from gemlet.infer.streams import AsyncAnswerStream
from gemlet.serve.errors import as_api_error
from gemlet.serve.registry import Served
from gemlet.serve.responses_schema import ResponsesRequest
from gemlet.serve.shapes import about, chat_logprobs, finish_of, logprob_of
from gemlet.types import Completion, TokenEvent, TokenLogprob, ToolCallDelta

Event = dict[str, Any]


def start(served: Served, request: ResponsesRequest) -> AsyncAnswerStream:
    """The answer, not yet begun; `await` it to learn whether it is taken."""
    answer: AsyncAnswerStream = served.model.achat(
        request.messages(), stream=True, adapter=served.adapter, **request.options()
    )
    return answer


async def collect(served: Served, request: ResponsesRequest, answer: AsyncAnswerStream) -> dict[str, Any]:
    """The whole response: what the last event of a stream holds."""
    writer = Writer(served, request)
    async with aclosing(answer):
        async for event in answer:
            for _ in writer.take(event):
                pass
    return writer.response


async def stream(
    served: Served, request: ResponsesRequest, answer: AsyncAnswerStream
) -> AsyncIterator[dict[str, Any]]:
    """The events of the response. An error in mid-stream is the last one, and raised behind it."""
    writer = Writer(served, request)
    yield writer.lifecycle("created")
    yield writer.lifecycle("in_progress")
    try:
        async with aclosing(answer):
            async for event in answer:
                for one in writer.take(event):
                    yield one
    except Exception as error:
        yield writer.fail(error)
        raise


class Writer:
    """Makes the events of one response, and the response itself, from the tokens of the answer."""

    def __init__(self, served: Served, request: ResponsesRequest) -> None:
        self._tokenizer = served.model.tokenizer
        self._with_logprobs = bool(request.include)
        self._top = request.top_logprobs or 0
        self._number = 0
        self._open: dict[str, Any] | None = None
        self._call: int | None = None
        self._logprobs: list[TokenLogprob] = []
        """Of tokens whose text has not come yet."""
        self.response = _head_of(served, request)

    def lifecycle(self, name: str) -> Event:
        """An event that shows the whole response."""
        return self._event(name, response=self.response | {"output": list(self.response["output"])})

    def fail(self, error: Exception) -> Event:
        """The last event of a response that ended with an error."""
        told = as_api_error(error)
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": str(told)}}
        return self.lifecycle("failed")

    def take(self, event: TokenEvent) -> Iterator[Event]:
        """The events that a token makes."""
        token = logprob_of(self._tokenizer, event)
        if self._with_logprobs and token is not None:
            self._logprobs.append(token)
        if event.text:
            yield from self._write_text(event.text)
        for delta in event.tool_calls:
            yield from self._write_call(delta)
        if event.completion is not None:
            yield from self._finish(event.completion)

    def _event(self, name: str, **fields: Any) -> Event:
        event = {"type": f"response.{name}", "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _of_item(self, name: str, **fields: Any) -> Event:
        assert self._open is not None
        index = len(self.response["output"]) - 1
        return self._event(name, item_id=self._open["id"], output_index=index, **fields)

    def _begin(self, item: dict[str, Any]) -> Event:
        self._open = item
        self.response["output"].append(item)
        index = len(self.response["output"]) - 1
        return self._event("output_item.added", output_index=index, item=_copy(item))

    def _write_text(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            yield from self._close("completed")
            message = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}
            yield self._begin({"id": _new_id("msg"), **message})
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            assert self._open is not None
            self._open["content"].append(part)
            yield self._of_item("content_part.added", content_index=0, part=_copy(part))
        part = self._open["content"][0]
        logprobs = self._take_logprobs()
        part["text"] += text
        part["logprobs"] += logprobs
        if text:
            yield self._of_item("output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _take_logprobs(self) -> list[dict[str, Any]]:
        tokens, self._logprobs = self._logprobs, []
        content: list[dict[str, Any]] = chat_logprobs(self._tokenizer, tokens, self._top)["content"]
        return content

    def _write_call(self, delta: ToolCallDelta) -> Iterator[Event]:
        if self._call != delta.index:
            yield from self._close("completed")
            self._call = delta.index
            call = {"call_id": delta.id, "name": delta.name, "arguments": "", "status": "in_progress"}
            yield self._begin({"id": _new_id("fc"), "type": "function_call", **call})
        self._logprobs.clear()  # a call has no place for them
        if delta.arguments:
            assert self._open is not None
            self._open["arguments"] += delta.arguments
            yield self._of_item("function_call_arguments.delta", delta=delta.arguments)

    def _close(self, status: str) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            text, logprobs = part["text"], part["logprobs"]
            yield self._of_item("output_text.done", content_index=0, text=text, logprobs=logprobs)
            yield self._of_item("content_part.done", content_index=0, part=_copy(part))
        else:
            yield self._of_item("function_call_arguments.done", arguments=item["arguments"])
        item["status"] = status
        index = len(self.response["output"]) - 1
        yield self._event("output_item.done", output_index=index, item=_copy(item))
        self._open = None

    def _finish(self, done: Completion) -> Iterator[Event]:
        finish = finish_of(done)
        status = "incomplete" if finish == "length" else "completed"
        nothing_yet = self._open is None and not done.tool_calls
        if nothing_yet or (self._logprobs and self._call is None):
            yield from self._write_text("")
        yield from self._close(status)
        self.response |= {
            "status": status,
            "usage": _usage_of(done),
            **about(done),
        }
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        yield self.lifecycle(status)


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now: an event must not change when its item does."""
    return {key: list(map(_copy, value)) if key == "content" else value for key, value in item.items()}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _head_of(served: Served, request: ResponsesRequest) -> dict[str, Any]:
    """A response that has just begun."""
    defaults = served.model.sampling
    tools = [] if request.tools is None else [tool.model_dump(exclude_none=True) for tool in request.tools]
    form = None if request.text is None else request.text.format
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": served.name,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "system_fingerprint": served.fingerprint,
        "temperature": defaults.temperature if request.temperature is None else request.temperature,
        "text": {"format": form or {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": [{"description": None, "parameters": None, "strict": None} | tool for tool in tools],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": defaults.top_p if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
    }


def _usage_of(done: Completion) -> dict[str, Any]:
    used = done.usage
    # Writes are a kind that a bill knows; here every token that is read may be kept, at no cost.
    cache = {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0}
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": cache,
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
