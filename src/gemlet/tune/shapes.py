"""The shapes that a line of training data may have, recognised by their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from gemlet.errors import GemletError
from gemlet.text.tools import Tool, read_tools
from gemlet.tune.lines import Refused

Method = Literal["sft", "dpo"]

EXTRA_FIELDS = ("id", "category", "source", "metadata")
"""Fields that any line may have, beside the group key. They are not read."""

ANSWERING = ("assistant", "model")


@dataclass(frozen=True)
class Chat:
    """A conversation. Only the model's turns from message `learned_from` on are learned."""

    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...] = ()
    learned_from: int = 0


@dataclass(frozen=True)
class Continuation:
    """Raw text: the completion is learned, behind the prompt."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Plain:
    """Raw text, all of it learned."""

    text: str


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt."""

    chosen: Chat | Continuation
    rejected: Chat | Continuation


Content = Chat | Continuation | Plain | Preference


@dataclass(frozen=True)
class Shape:
    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


MESSAGES = Shape("messages", ("messages",), ("tools",))
SHAREGPT = Shape("ShareGPT", ("conversations",), ("system",))
ALPACA = Shape("Alpaca", ("instruction", "output"), ("input",))
PREFERENCE = Shape("preference", ("chosen", "rejected"), ("prompt", "tools"))
COMPLETION = Shape("prompt/completion", ("prompt", "completion"))
TEXT = Shape("text", ("text",))
SHAPES = (MESSAGES, SHAREGPT, ALPACA, PREFERENCE, COMPLETION, TEXT)
"""The first one of which a line has a required field is its shape."""

_KNOWN = "messages, prompt and completion, text, conversations, instruction and output"
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def shape_of(value: Mapping[str, Any], method: Method) -> Shape:
    """Which shape a line has. Raises Refused for none, and for one that the method is not for."""
    shape = next((shape for shape in SHAPES if any(name in value for name in shape.required)), None)
    wanted = "prompt, chosen and rejected" if method == "dpo" else _KNOWN
    if shape is None:
        has = ", ".join(sorted(map(repr, value)))[:200] or "nothing"
        raise Refused("line", f"has none of the known shapes: it has {has}; known are {wanted}")
    if (shape is PREFERENCE) != (method == "dpo"):
        problem = "preferences are learned with" if shape is PREFERENCE else "is no preference, as needed for"
        raise Refused("line", f"{problem} the method dpo")
    return shape


def read_content(value: Mapping[str, Any], shape: Shape, group_key: str | None) -> Content:
    """What a line of this shape holds. Raises Refused naming the field.

    What is inside of messages is left to the template; only what it would take in silence is refused here.
    """
    known = (*shape.required, *shape.optional, *EXTRA_FIELDS, *([group_key] if group_key else []))
    for name in value:
        if name not in known:
            problem = f"is unknown in the shape {shape.name}; known are {', '.join(known)}"
            raise Refused(f"{name:.80}", problem)
    for name in shape.required:
        if name not in value:
            raise Refused(name, f"is missing, which the shape {shape.name} has")
    if shape is MESSAGES:
        return _chat(value, "messages", _read_tools(value))
    if shape is SHAREGPT:
        return _sharegpt(value)
    if shape is ALPACA:
        return _alpaca(value)
    if shape is PREFERENCE:
        return _preference(value)
    if shape is COMPLETION:
        return Continuation(_text(value, "prompt"), _filled(value, "completion"))
    return Plain(_filled(value, "text"))


def content_texts(content: Content) -> list[str]:
    """Every text in a line that the model reads, in order."""
    if isinstance(content, Plain):
        return [content.text]
    if isinstance(content, Continuation):
        return [content.prompt, content.completion]
    if isinstance(content, Preference):
        return content_texts(content.chosen) + content_texts(content.rejected)
    texts = []
    for message in content.messages:
        texts.append(message_text(message))
        for call in message.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping):
                texts += [part for part in function.values() if isinstance(part, str)]
    for tool in content.tools:
        texts += [tool.name, tool.description or ""]
    return texts


def message_text(message: Mapping[str, Any]) -> str:
    """A message's text, which may be in parts; what is no text is left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def group_of(value: Mapping[str, Any], key: str | None) -> str | None:
    """The group that a line names. Raises Refused where it names none."""
    if key is None:
        return None
    if key not in value:
        raise Refused(key, "is missing: it is the group key")
    group = value[key]
    if isinstance(group, bool) or not isinstance(group, (str, int)) or group == "":
        raise Refused(key, "is the group key: it must be text or a whole number")
    return str(group)


# --- The shapes


def _chat(value: Mapping[str, Any], field: str, tools: tuple[Tool, ...] = ()) -> Chat:
    messages = _messages(value, field)
    _check_answers(messages, field)
    return Chat(messages, tools)


def _sharegpt(value: Mapping[str, Any]) -> Chat:
    messages: list[Mapping[str, Any]] = []
    if "system" in value:
        messages.append({"role": "system", "content": _filled(value, "system")})
    for i, turn in enumerate(_list_of_objects(value, "conversations")):
        where = f"conversations[{i}]"
        for name in turn:
            if name not in ("from", "value"):
                raise Refused(f"{where}.{name:.80}", "is unknown; known are from, value")
        speaker = _text(turn, "from", where)
        if speaker not in _SPEAKERS:
            known = ", ".join(_SPEAKERS)
            raise Refused(f"{where}.from", f"{speaker:.80} is unknown; known are {known}")
        messages.append({"role": _SPEAKERS[speaker], "content": _text(turn, "value", where)})
    _check_answers(messages, "conversations")
    return Chat(messages)


def _alpaca(value: Mapping[str, Any]) -> Chat:
    parts = [_filled(value, "instruction")]
    if _text(value, "input", default="").strip():
        parts.append(value["input"])
    return Chat(
        [
            {"role": "user", "content": "\n\n".join(parts)},
            {"role": "assistant", "content": _filled(value, "output")},
        ]
    )


def _preference(value: Mapping[str, Any]) -> Preference:
    if all(isinstance(value.get(name), str) for name in ("prompt", "chosen", "rejected")):
        if "tools" in value:
            raise Refused("tools", "belongs to messages, but prompt, chosen and rejected are texts")
        prompt = _text(value, "prompt")
        answers = [Continuation(prompt, _filled(value, name)) for name in ("chosen", "rejected")]
        if answers[0] == answers[1]:
            raise Refused("rejected", "is the same as chosen")
        return Preference(*answers)
    if "prompt" not in value and isinstance(value["chosen"], str):
        raise Refused("prompt", "is missing: chosen is text, which says nothing of what it answers")
    chosen, rejected = _messages(value, "chosen"), _messages(value, "rejected")
    if "prompt" in value:
        prompt_messages = list(_messages(value, "prompt"))
    else:  # whole conversations: the prompt is what they begin with
        shared = next(
            (i for i, pair in enumerate(zip(chosen, rejected, strict=False)) if pair[0] != pair[1]), 0
        )
        prompt_messages, chosen, rejected = list(chosen[:shared]), chosen[shared:], rejected[shared:]
        if not prompt_messages:
            raise Refused("prompt", "is missing, and chosen and rejected do not begin with the same messages")
    if chosen == rejected:
        raise Refused("rejected", "is the same as chosen")
    if prompt_messages[-1].get("role") in ANSWERING:
        raise Refused("prompt", "ends with an answer: its last message must be the user's or a tool's")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        roles = [message.get("role") in ANSWERING for message in answer]
        if not roles[0] or not roles[-1] or any(a and b for a, b in pairwise(roles)):
            raise Refused(name, "must be an answer: it begins and ends with a message of the assistant")
        _check_answers(answer, name)
    tools, start = _read_tools(value), len(prompt_messages)
    return Preference(*(Chat([*prompt_messages, *some], tools, start) for some in (chosen, rejected)))


def _check_answers(messages: Sequence[Mapping[str, Any]], field: str) -> None:
    """That there is an answer to learn, and that none is empty."""
    answers = [(i, message) for i, message in enumerate(messages) if message.get("role") in ANSWERING]
    if not answers:
        raise Refused(field, "has no turn of the model: there is nothing to learn")
    for i, message in answers:
        text = isinstance(message.get("content"), (str, list, type(None)))
        if text and not message_text(message).strip() and not message.get("tool_calls"):
            raise Refused(f"{field}[{i}]", "is an empty answer")


def _read_tools(value: Mapping[str, Any]) -> tuple[Tool, ...]:
    try:
        return read_tools(value.get("tools"))
    except GemletError as error:
        raise Refused(*named(error.message, "tools")) from None


def named(message: str, otherwise: str) -> tuple[str, str]:
    """Field and reason of a message that begins with a field's name."""
    field, colon, reason = message.partition(": ")
    return (field, reason) if colon and " " not in field else (otherwise, message)


# --- Fields


def _messages(value: Mapping[str, Any], field: str) -> Sequence[Mapping[str, Any]]:
    return _list_of_objects(value, field)


def _list_of_objects(value: Mapping[str, Any], field: str) -> Sequence[Mapping[str, Any]]:
    items = value.get(field)
    if not isinstance(items, list) or not items:
        raise Refused(field, f"must be a list of messages, not {_kind(items)}")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise Refused(f"{field}[{i}]", f"must be an object, not {_kind(item)}")
    return items


def _text(value: Mapping[str, Any], field: str, inside: str = "", default: str | None = None) -> str:
    text = value.get(field, default)
    if not isinstance(text, str):
        where = f"{inside}.{field}" if inside else field
        raise Refused(where, f"must be text, not {_kind(text)}" if field in value else "is missing")
    return text


def _filled(value: Mapping[str, Any], field: str) -> str:
    text = _text(value, field)
    if not text.strip():
        raise Refused(field, "is empty")
    return text


def _kind(value: Any) -> str:
    if value == []:
        return "an empty list"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
