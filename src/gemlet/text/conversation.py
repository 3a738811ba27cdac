"""Messages, checked, as alternating turns of user and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemlet.errors import ConversationError, UnsupportedParameterError
from gemlet.text.tokenizer import check_text
from gemlet.text.tools import BETWEEN_RESULTS, calls_text, result_text
from gemlet.types import Message, ToolCall

ROLES = ("system", "developer", "user", "assistant", "model", "tool")
_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
_EMPTY_KEYS = ("refusal", "annotations", "audio", "function_call")
"""Keys that an API writes into its answers and clients send back. Empty ones say nothing."""
_OTHER_MEDIA = ("image", "image_url", "input_image", "input_audio", "audio", "file", "input_file", "video")
_BETWEEN = "\n\n"
"""Joins texts that become one turn."""
_LAST = 1 << 30
"""The place of a result that belongs to none of the calls."""


@dataclass(frozen=True)
class Turn:
    """One turn. `role` is "user" or "model"; in strict mode others keep their own name."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """`system` belongs before the text of the first turn. `normalisations`: a line for everything changed."""

    system: str | None
    turns: tuple[Turn, ...]
    normalisations: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Parsed:
    """A message whose shape is right. `parts` None: no content at all."""

    where: str
    role: str
    parts: tuple[str, ...] | None
    name: str | None
    tool_calls: tuple[ToolCall, ...]
    tool_call_id: str | None

    @property
    def text(self) -> str:
        return "".join(part.strip() for part in self.parts or ())


def read_strictly(
    messages: Sequence[Message | Mapping[str, Any]], *, with_tools: bool = False
) -> Conversation:
    """What the reference template makes of messages; ConversationError where that template raises.

    Also refused are tool calls, which the template leaves out without a word. It knows no tools: with them,
    what is refused is whatever `read_leniently` would change.
    """
    if with_tools:
        conversation = read_leniently(messages, with_tools=True)
        if conversation.normalisations:
            hint = "this is refused in strict mode, where nothing is changed"
            raise ConversationError(conversation.normalisations[0], hint=hint)
        return conversation
    parsed = _parse_all(messages)
    system = None
    if parsed[0].role == "system":
        if not parsed[0].parts:
            raise ConversationError(f"{parsed[0].where}: a system message needs content")
        system, parsed = parsed[0].parts[0], parsed[1:]
    turns = []
    for position, message in enumerate(parsed):
        if (message.role == "user") != (position % 2 == 0):
            problem = "roles must alternate user/assistant/user/assistant/..., beginning with user"
            raise ConversationError(f"{message.where}: {problem}; this one is {message.role!r}")
        if message.tool_calls:
            raise ConversationError(f"{message.where}: the strict chat format has no tool calls")
        if message.parts is None:
            raise ConversationError(f"{message.where}: has no content")
        turns.append(Turn("model" if message.role == "assistant" else message.role, message.text))
    return Conversation(system, tuple(turns))


def read_leniently(
    messages: Sequence[Message | Mapping[str, Any]], *, with_tools: bool = False
) -> Conversation:
    """Turns of user and model in alternation, user first, with nothing lost; ConversationError if impossible.

    Messages that the reference template accepts whole give the same turns as in strict mode. `with_tools`:
    the model is told of tools, so that their calls and results belong to the format.
    """
    parsed = _parse_all(messages)
    builder = _Builder(with_tools)
    leading = 0
    while leading < len(parsed) and parsed[leading].role in ("system", "developer"):
        builder.add_system(parsed[leading])
        leading += 1
    for message in parsed[leading:]:
        builder.add_turn(message)
    return builder.finish()


def read_as_given(
    messages: Sequence[Message | Mapping[str, Any]],
) -> tuple[list[tuple[str, str]], tuple[str, ...]] | None:
    """Role and text of each message as they are, for templates that know the usual roles; None with tools.

    Roles become "system", "user" or "assistant"; the lines say what that changed.
    """
    turns, lines = [], []
    usual = {"developer": "system", "model": "assistant"}
    for message in _parse_all(messages):
        if message.role == "tool" or message.tool_calls:
            return None
        if message.parts is None:
            raise ConversationError(f"{message.where}: has no content")
        if message.role == "developer":
            lines.append(f"{message.where}: a developer message is treated as a system message")
        if message.name is not None:
            lines.append(f"{message.where}: the name {message.name!r} is not shown to the model")
        turns.append((usual.get(message.role, message.role), "".join(message.parts)))
    return turns, tuple(lines)


@dataclass
class _Builder:
    with_tools: bool
    systems: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    call_names: dict[str, str] = field(default_factory=dict)
    awaited: dict[str, int] = field(default_factory=dict)
    """The calls of the last answer that have no result yet, and their order."""
    results: list[tuple[int, str]] = field(default_factory=list)
    """Results of one turn, each with its call's place."""

    def add_system(self, message: _Parsed) -> None:
        if not message.parts:
            raise ConversationError(f"{message.where}: a system message needs content")
        if message.role == "developer":
            self.lines.append(f"{message.where}: a developer message is treated as a system message")
        if len(message.parts) > 1:
            self.lines.append(f"{message.where}: all parts of the system message are kept")
        if self.systems:
            self.lines.append(f"{message.where}: joined with the system message before it")
        self.systems.append("".join(message.parts))

    def add_turn(self, message: _Parsed) -> None:
        if message.parts is None and not message.tool_calls:
            raise ConversationError(f"{message.where}: has no content")
        if message.tool_calls and message.role not in ("assistant", "model"):
            raise ConversationError(f"{message.where}: only an assistant message has tool calls")
        if message.role == "tool":
            self._add_result(message)
            return
        self._end_results(message.where)
        if message.name is not None:
            self.lines.append(f"{message.where}: the name {message.name!r} is not shown to the model")
        if message.role in ("assistant", "model"):
            self._append(Turn("model", self._with_calls(message)), message.where)
            return
        if message.role != "user":
            self.lines.append(f"{message.where}: a late {message.role} message is rendered as a user turn")
        self._append(Turn("user", message.text), message.where)

    def _with_calls(self, message: _Parsed) -> str:
        if not message.tool_calls:
            return message.text
        if not self.with_tools:
            self.lines.append(f"{message.where}: tool calls are rendered as JSON text")
        self.call_names |= {call.id: call.name for call in message.tool_calls}
        self.awaited = {call.id: place for place, call in enumerate(message.tool_calls)}
        return calls_text(message.text, message.tool_calls)

    def _add_result(self, message: _Parsed) -> None:
        call_id = message.tool_call_id or ""
        name = self.call_names.get(call_id) or message.name
        if not self.with_tools:
            self.lines.append(f"{message.where}: a tool result is rendered as a user turn")
        elif call_id not in self.awaited:
            answered = call_id in self.call_names
            problem = "is not one that waits for a result" if answered else "names no call"
            self.lines.append(f"{message.where}: the tool_call_id {message.tool_call_id!r} {problem}")
        place = self.awaited.pop(call_id, _LAST)
        if self.results:
            # They are one turn, in the order of their calls; results of no call come last.
            self.results.append((place, result_text(name, message.text)))
            ordered = sorted(self.results, key=lambda result: result[0])
            self.turns[-1] = Turn("user", BETWEEN_RESULTS.join(text for _, text in ordered))
            return
        text = result_text(name, message.text)
        alone = not self.turns or self.turns[-1].role == "model"
        self._append(Turn("user", text), message.where)
        if alone:
            self.results.append((place, text))

    def _end_results(self, where: str) -> None:
        """Whatever follows the results: calls without one are given up."""
        if self.awaited and self.with_tools:
            missing = ", ".join(map(repr, self.awaited))
            self.lines.append(f"{where}: comes before the results of the calls {missing}")
        self.awaited, self.results = {}, []

    def _append(self, turn: Turn, where: str) -> None:
        if self.turns and self.turns[-1].role == turn.role:
            speaker = "assistant" if turn.role == "model" else "user"
            self.lines.append(f"{where}: merged with the {speaker} turn before it, {self.wheres[-1]}")
            texts = [text for text in (self.turns[-1].text, turn.text) if text]
            self.turns[-1] = Turn(turn.role, _BETWEEN.join(texts))
        else:
            self.turns.append(turn)
            self.wheres.append(where)

    def finish(self) -> Conversation:
        system = _BETWEEN.join(self.systems) if self.systems else None
        if not self.turns or self.turns[0].role == "model":
            if system is None:
                self.lines.append("an empty user turn is put before the assistant's")
            else:
                self.lines.append("the system message is rendered as a user turn, since none follows it")
            self.turns.insert(0, Turn("user", (system or "").strip()))
            system = None
        return Conversation(system, tuple(self.turns), tuple(self.lines))


def _parse_all(messages: Sequence[Message | Mapping[str, Any]]) -> list[_Parsed]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ConversationError(f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise ConversationError("messages is empty: a conversation needs at least one message")
    return [_parse(f"messages[{i}]", message) for i, message in enumerate(messages)]


def _parse(where: str, message: Message | Mapping[str, Any]) -> _Parsed:
    if isinstance(message, Message):
        message = {key: getattr(message, key) for key in _KEYS}
    if not isinstance(message, Mapping):
        raise ConversationError(f"{where}: must be an object with role and content")
    said = {key: value for key, value in message.items() if value or key not in _EMPTY_KEYS}
    _expect_keys(where, said, _KEYS)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ConversationError(f"{where}.role: {role!r} is unknown; known are {', '.join(ROLES)}")
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            _expect_text(f"{where}.{key}", message[key])
    calls = message.get("tool_calls") or ()
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
        raise ConversationError(f"{where}.tool_calls: must be a list")
    return _Parsed(
        where=where,
        role=role,
        parts=_parse_content(f"{where}.content", message.get("content")),
        name=message.get("name"),
        tool_calls=tuple(_parse_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls)),
        tool_call_id=message.get("tool_call_id"),
    )


def _parse_content(where: str, content: Any) -> tuple[str, ...] | None:
    if content is None:
        return None
    if isinstance(content, str):
        return (_expect_text(where, content),)
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise ConversationError(f"{where}: must be text or a list of parts, not {type(content).__name__}")
    parts = []
    for i, part in enumerate(content):
        inner = f"{where}[{i}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _OTHER_MEDIA:
            problem = f"{inner}: {kind!r} is not supported: the model reads text only"
            raise UnsupportedParameterError(inner, problem)
        if kind != "text":
            raise ConversationError(f'{inner}: must be {{"type": "text", "text": ...}}')
        _expect_keys(inner, part, ("type", "text"))
        parts.append(_expect_text(f"{inner}.text", part.get("text")))
    return tuple(parts)


def _parse_call(where: str, call: Any) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    if not isinstance(call, Mapping):
        raise ConversationError(f"{where}: must be an object")
    _expect_keys(where, call, ("id", "type", "function", "index"))
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise ConversationError(f"{where}: must be a call of a function")
    _expect_keys(f"{where}.function", function, ("name", "arguments"))
    name = _expect_text(f"{where}.function.name", function.get("name"))
    arguments = _expect_text(f"{where}.function.arguments", function.get("arguments"))
    return ToolCall(_expect_text(f"{where}.id", call.get("id", "")), name, arguments)


def _expect_keys(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ConversationError(f"{where}: the key {key!r} is unknown; known are {', '.join(known)}")


def _expect_text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConversationError(f"{where}: must be text, not {type(value).__name__}")
    check_text(value, where)
    return value
