"""Streamed answers put together: what the same request without a stream would have been answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAX_ANSWER = 16 << 20
"""Bytes of an answer that are looked at, as they come over the wire."""

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"


class AnswerError(ValueError):
    """An answer that is not in the form of its API."""


def json_object(data: bytes) -> dict[str, Any]:
    """Bytes as a JSON object. Raises AnswerError."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise AnswerError("is not UTF-8") from None
    except (ValueError, RecursionError):
        raise AnswerError("is not JSON") from None
    if not isinstance(value, dict):
        raise AnswerError("is not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class Body:
    """An answer's bytes as they come, in whichever form; `result` is the body, a stream's put together."""

    def __init__(self, content_type: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self.streamed = kind in (EVENT_STREAM, JSON_LINES)
        self.known = self.streamed or kind == "application/json"
        self.too_large = False
        self._seen = 0
        self._bytes = bytearray()
        self._events = _Events(kind == JSON_LINES)

    def feed(self, piece: bytes) -> bool:
        """Whether text, or a part of a call, came with it. Beyond MAX_ANSWER nothing is kept.

        Raises AnswerError.
        """
        self._seen += len(piece)
        self.too_large = self.too_large or self._seen > MAX_ANSWER
        if self.too_large:
            return False
        if self.streamed:
            return self._events.feed(piece)
        self._bytes += piece
        return False

    @property
    def whole(self) -> bool:
        """Whether a stream said that it ended; any other answer ends with its bytes."""
        return not self.streamed or self._events.ended()

    def result(self) -> dict[str, Any]:
        """The answer. Raises AnswerError."""
        return self._events.result() if self.streamed else json_object(bytes(self._bytes))


class _Events:
    """Events of a stream of one of the APIs, told apart by what they hold."""

    def __init__(self, lines: bool) -> None:
        self._ended = False
        self._lines = lines
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._alone: _Choice | None = None  # of the APIs whose answers have no choices
        self._unknown: list[dict[str, Any]] = []

    def ended(self) -> bool:
        """Whether the end was said, by an event of its own or in every choice."""
        reasons = [choice.finish for choice in self._choices.values()]
        return self._ended or (bool(reasons) and None not in reasons)

    def feed(self, piece: bytes) -> bool:
        """Whether text, or a part of a call, came with it."""
        if b"\n" not in piece:
            self._rest += piece
            return False
        *lines, rest = (bytes(self._rest) + piece).split(b"\n")
        self._rest = bytearray(rest)
        return any([self._line(line.rstrip(b"\r")) for line in lines])

    def _line(self, line: bytes) -> bool:
        if self._lines:
            return bool(line) and self._event(line)
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line or not self._data:
            return False
        data, self._data = b"\n".join(self._data), []
        return self._event(data)

    def _event(self, data: bytes) -> bool:
        if data.strip() == b"[DONE]":
            self._ended = True
            return False
        event = json_object(data)
        if "error" in event and event["error"] is not None:
            self._head["error"] = event["error"]
            self._ended = True
            return False
        if event.get("type") == "error":  # of the Responses API
            self._head["error"] = {"message": event.get("message"), "code": event.get("code")}
            return False
        if isinstance(event.get("choices"), list):
            return self._chunk(event)
        if isinstance(event.get("type"), str) and event["type"].startswith("response."):
            return self._response(event)
        if isinstance(event.get("done"), bool):
            return self._ollama(event)
        self._unknown.append(event)
        return False

    def _chunk(self, event: dict[str, Any]) -> bool:
        news = False
        for part in event.pop("choices"):
            if not isinstance(part, dict) or type(part.get("index", 0)) is not int:
                raise AnswerError("has a choice without an index")
            choice = self._choices.setdefault(part.get("index", 0), _Choice("delta" in part))
            news = choice.add(part) or news
        self._head.update({key: value for key, value in event.items() if value is not None})
        return news

    def _response(self, event: dict[str, Any]) -> bool:
        if isinstance(event.get("response"), dict):
            self._head.update(event["response"])
            self._ended = event["type"] in ("response.completed", "response.incomplete", "response.failed")
        if not event["type"].endswith(".delta"):
            return False
        if event["type"] == "response.output_text.delta":
            self._alone = self._alone or _Choice(False)
            self._alone.add({"text": event.get("delta")})
        return True

    def _ollama(self, event: dict[str, Any]) -> bool:
        self._alone = self._alone or _Choice("message" in event)
        self._ended = event["done"]
        message, text = event.pop("message", None), event.pop("response", None)
        earlier, logprobs = self._head.get("logprobs"), event.get("logprobs")
        if isinstance(earlier, list):
            event["logprobs"] = earlier + (logprobs if isinstance(logprobs, list) else [])
        self._head.update(event)
        return self._alone.add({"text": text} if message is None else {"delta": message})

    def result(self) -> dict[str, Any]:
        """The answer in the form of one without a stream."""
        body = dict(self._head)
        if "object" in body and isinstance(body["object"], str):
            body["object"] = body["object"].removesuffix(".chunk")
        if self._choices:
            body["choices"] = [{"index": index} | one.body() for index, one in sorted(self._choices.items())]
        if self._alone is not None and "output" not in body:  # also a response that did not come to its end
            alone = self._alone.body()
            message = alone.get("message")
            body |= {"response": alone["text"]} if message is None else {"message": message}
        if self._alone is not None and isinstance(body.get("output"), list) and not body["output"]:
            part = {"type": "output_text", "text": self._alone.body()["text"]}
            body["output"] = [{"type": "message", "role": "assistant", "content": [part]}]
        if self._unknown:
            body["events"] = self._unknown
        return body


@dataclass
class _Choice:
    """One answer under way. `chat`: it becomes a message, otherwise a text."""

    chat: bool
    finish: str | None = None
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, part: dict[str, Any]) -> bool:
        """Whether there was text in it, or a part of a call."""
        delta = part.get("delta", part)
        if not isinstance(delta, dict):
            raise AnswerError("has a delta that is not an object")
        text = _text(delta.get("content" if "delta" in part else "text"))
        refusal = _text(delta.get("refusal"))
        calls = delta.get("tool_calls") or []
        if not isinstance(calls, list):
            raise AnswerError("has tool_calls that are not a list")
        for call in calls:
            self._call(call)
        self.texts.append(text)
        self.refusals.append(refusal)
        self.finish = _text(part.get("finish_reason")) or self.finish
        logprobs = part.get("logprobs")
        for name, values in logprobs.items() if isinstance(logprobs, dict) else ():
            if isinstance(values, list):
                self.logprobs.setdefault(name, []).extend(values)
        return bool(text or refusal or calls)

    def _call(self, piece: Any) -> None:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            raise AnswerError("has a call without a function")
        index = piece.get("index", function.get("index"))
        if index is None:  # not every server counts: then a name begins the next call
            index = len(self.calls) if function.get("name") else max(0, len(self.calls) - 1)
        if type(index) is not int:
            raise AnswerError("has a call whose index is not a number")
        call = self.calls.setdefault(index, {"id": None, "name": "", "arguments": []})
        call["id"] = call["id"] or piece.get("id")
        call["name"] += _text(function.get("name"))
        arguments = function.get("arguments")
        call["arguments"].append(json.dumps(arguments) if isinstance(arguments, dict) else _text(arguments))

    def body(self) -> dict[str, Any]:
        """The choice of an answer without a stream."""
        text, end = "".join(self.texts), {"finish_reason": self.finish, "logprobs": self.logprobs or None}
        if not self.chat:
            return {"text": text} | end
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if refusal := "".join(self.refusals):
            message["refusal"] = refusal
        if self.calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
                }
                for _, call in sorted(self.calls.items())
            ]
        return {"message": message} | end


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise AnswerError("has text that is none")
    return value
