"""What a caller asks for, checked and made into a request: messages, limits, stops, sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemlet.errors import (
    ContextLengthError,
    ConversationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from gemlet.infer.answer import Prepared
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.sample import REACH, check_seed, draw_seed, merge_sampling
from gemlet.types import Message, Sampling, ToolCall

Stop = str | int | Sequence[str | int]


@dataclass(frozen=True)
class Options:
    """The parameters that `generate` and `chat` share, as they were given."""

    max_tokens: int | None
    n: int
    stop: Stop
    seed: int | None
    logprobs: int
    ignore_eos: bool
    sampling: Mapping[str, Any]


@dataclass(frozen=True)
class Defaults:
    """What a model brings along: its sampling, its stop ids, and the sizes that bound a request."""

    sampling: Sampling
    stop_ids: tuple[int, ...]
    context: int
    vocab_size: int


def prepare(
    ids: Sequence[int],
    options: Options,
    defaults: Defaults,
    stop: Sequence[str] = (),
    normalisations: tuple[str, ...] = (),
) -> Prepared:
    """The request for an answer to `ids`. `stop`: strings that end it besides those of the options.

    Raises InvalidRequestError, UnsupportedParameterError for an unknown name, ContextLengthError.
    """
    _check_whole("n", options.n, 1)
    _check_whole("logprobs", options.logprobs, 0, REACH)
    if not isinstance(options.ignore_eos, bool):
        raise InvalidRequestError(f"ignore_eos must be true or false, not {options.ignore_eos!r}")
    max_tokens = options.max_tokens
    if max_tokens is None:
        max_tokens = defaults.context - len(ids)
        if max_tokens < 1:
            raise ContextLengthError(len(ids) + 1, defaults.context)
    _check_whole("max_tokens", max_tokens, 1)
    strings, stop_ids = _split_stops(options.stop, defaults.vocab_size)
    request = AnswerRequest(
        ids=tuple(ids),
        max_tokens=max_tokens,
        sampling=merge_sampling(defaults.sampling, options.sampling, defaults.vocab_size),
        seed=draw_seed() if options.seed is None else check_seed(options.seed),
        n=options.n,
        stop_ids=frozenset(stop_ids if options.ignore_eos else {*stop_ids, *defaults.stop_ids}),
        logprobs=options.logprobs or None,
    )
    return Prepared(request, tuple(dict.fromkeys((*strings, *stop))), normalisations)


def refuse_unsupported(**parameters: object) -> None:
    """UnsupportedParameterError for the first that is given: what cannot be enforced is never ignored."""
    for name, value in parameters.items():
        if value is not None:
            raise UnsupportedParameterError(name, f"{name} is not supported yet")


def _split_stops(stop: Stop, vocab_size: int) -> tuple[list[str], set[int]]:
    given = [stop] if isinstance(stop, (str, int)) else stop
    if not isinstance(given, Iterable):
        raise InvalidRequestError(f"stop must be text, token ids, or a list of them, not {stop!r}")
    strings: list[str] = []
    ids: set[int] = set()
    for item in given:
        if isinstance(item, str) and item:
            strings.append(item)
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < vocab_size:
            ids.add(item)
        else:
            raise InvalidRequestError(f"stop: {item!r} is neither text nor a token id")
    return strings, ids


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high and value > high):
        limit = "" if high is None else f" to {high}"
        raise InvalidRequestError(f"{name} must be a whole number from {low}{limit}, not {value!r}")


def check_ids(ids: Iterable[Any]) -> list[int]:
    """Token ids as plain numbers. InvalidRequestError for anything else; the engine checks their range."""
    checked = []
    for item in ids:
        if isinstance(item, (bool, str, float)) or not hasattr(item, "__index__"):
            raise InvalidRequestError(f"{item!r} is not a token id")
        checked.append(item.__index__())
    return checked


def as_messages(messages: Iterable[Any]) -> list[Message]:
    """Message values of dictionaries or Message values. ConversationError names what is wrong, and where."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise ConversationError("messages must be a list of messages, each with a role and content")
    return [_as_message(item, f"messages[{i}]") for i, item in enumerate(messages)]


def _as_message(item: Any, where: str) -> Message:
    if isinstance(item, Message):
        fields: dict[str, Any] = {name: getattr(item, name) for name in Message.__dataclass_fields__}
    elif isinstance(item, Mapping):
        fields = dict(item)
    else:
        raise ConversationError(f"{where} must be a dictionary or a Message, not {type(item).__name__}")
    if unknown := [str(name) for name in fields if name not in Message.__dataclass_fields__]:
        raise ConversationError(f"{where} has an unknown field {unknown[0]!r}")
    if fields.get("role") not in ("system", "user", "assistant", "tool"):
        known = "roles are system, user, assistant, tool"
        raise ConversationError(f"{where} has the role {fields.get('role')!r}", hint=known)
    calls = tuple(_as_tool_call(call, where) for call in fields.get("tool_calls") or ())
    content = fields.get("content")
    if content is None and calls:
        content = ""
    for name in ("tool_call_id", "name"):
        if not isinstance(fields.get(name), (str, type(None))):
            raise ConversationError(f"{where}: {name} must be text")
    return Message(
        fields["role"], _as_text(content, where), calls, fields.get("tool_call_id"), fields.get("name")
    )


def _as_text(content: Any, where: str) -> str:
    """Text as it is; text parts as the reference template puts them: trimmed, with nothing between."""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise ConversationError(f"{where}: content must be text, not {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ConversationError(f"{where}: content of the type {kind!r} is not supported, only text")
    return "".join(part["text"].strip() for part in content)


def _as_tool_call(call: Any, where: str) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ConversationError(f"{where}: a tool call must be a dictionary with a function")
    id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not (isinstance(id, str) and isinstance(name, str) and isinstance(arguments, str)):
        raise ConversationError(f"{where}: a tool call needs id, name and arguments as text")
    return ToolCall(id, name, arguments)
