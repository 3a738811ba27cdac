"""Chat formats that come with a model as a Jinja template: messages to ids, as transformers renders them.

A template is untrusted. It runs in Jinja's sandbox, with limits on what it may write and repeat; loops are
bounded by its input. Its text becomes control tokens, the messages' never: before it runs, a mark is put into
every place of a message that spells a control token or may complete one with the template's own text, and is
taken out when the rendered text has been cut at the control tokens without a mark. What a template does to a
message (trim it, look for a word in it) works as ever, since only these places have marks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gemlet.errors import ConversationError, MissingExtraError, ModelFileError
from gemlet.text.byte_level import ByteLevelTokenizer
from gemlet.text.conversation import read_as_given, read_leniently, read_strictly
from gemlet.text.template import AFTER_SYSTEM, Rendered
from gemlet.text.tools import Tool, declaration
from gemlet.types import Message

MAX_OUTPUT = 1 << 24
"""Characters that a template may write."""

MAX_ITEMS = 1 << 20
"""Numbers that a template's ranges may count in one run."""

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters: one that no message holds serves as the mark."""

_OWN_TOOLS = "tools: declared in gemlet's words and read from its calls, not in the template's own format"
_FORBIDDEN = frozenset({"format", "format_map", "ljust", "rjust", "center", "zfill", "expandtabs"})
"""Of texts: one call could make gigabytes. The filters of these names go too."""


class _Refused(Exception):
    """What the template says by raise_exception, or a limit."""


class ChatTemplate:
    """A compiled template. Safe to use from several threads.

    special_tokens: the names that a template may ask for, such as bos_token. path: of the file, for errors.
    """

    def __init__(
        self, text: str, tokenizer: ByteLevelTokenizer, special_tokens: Mapping[str, str], path: str
    ) -> None:
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._tokenizer = tokenizer
        self._special_tokens = dict(special_tokens)
        self._names = tuple(tokenizer.control_names)
        longest_first = sorted(self._names, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if self._names else None
        self._environment, error = _environment()
        try:
            self._template = self._environment.from_string(text)
        except error as problem:
            raise ModelFileError(path, "chat_template", f"cannot be compiled: {problem}") from None

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Tool] = (),
        strict: bool = False,
        add_generation_prompt: bool = True,
    ) -> Rendered:
        """The ids of a conversation. Nothing is marked to be learned.

        Messages are given to the template as they are, which refuses what it does not know. Tools, calls and
        their results become text first, as for other models. Raises ConversationError.
        """
        given, lines = _given(messages, tools, strict)
        mark = _mark(given)
        marked = [{key: self._marked(text, mark) for key, text in message.items()} for message in given]
        text = self._run(marked, add_generation_prompt)
        ids: list[int] = []
        for part in self._cut.split(text) if self._cut else [text]:
            control = self._tokenizer.control_id(part)
            ids += self._tokenizer.encode(part.replace(mark, "")) if control is None else [control]
        return Rendered(tuple(ids), (False,) * len(ids), lines)

    def render_learned(
        self, messages: Sequence[Message | Mapping[str, Any]], *, tools: Sequence[Tool] = ()
    ) -> Rendered:
        """The ids of a whole conversation, with the model's turns marked, each to the token that ends it.

        Where a turn begins and ends is told by rendering the messages before it, and with it. Raises
        ConversationError also for a template whose text changes as a conversation goes on.
        """
        whole = self.render(messages, tools=tools, add_generation_prompt=False)
        mask = [False] * len(whole.ids)
        for index, message in enumerate(messages):
            role = message.role if isinstance(message, Message) else message.get("role")
            if role not in ("assistant", "model"):
                continue
            before = self.render(messages[:index], tools=tools, add_generation_prompt=True).ids
            after = self.render(messages[: index + 1], tools=tools, add_generation_prompt=False).ids
            if not (whole.ids[: len(after)] == after and after[: len(before)] == before):
                raise ConversationError(
                    f"message {index}: the chat template writes what comes before it otherwise when there is "
                    "more: which tokens the model is to learn cannot be told"
                )
            ends = [at for at in range(len(before), len(after)) if self._tokenizer.is_control(after[at])]
            for at in range(len(before), ends[-1] + 1 if ends else len(after)):
                mask[at] = True
        return Rendered(whole.ids, tuple(mask), whole.normalisations)

    def _marked(self, text: str, mark: str) -> str:
        """The text with a mark in each control token, in a beginning of one at its end, an end at its start.

        White space around it is looked past: templates trim.
        """
        if self._cut is None:
            return text
        text = self._cut.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        body = text.rstrip()
        for name in self._names:
            for length in range(1, len(name)):
                if body.endswith(name[:length]):
                    at = len(body) - length + 1
                    text = text[:at] + mark + text[at:]
                    body = text.rstrip()
        start = len(text) - len(text.lstrip())
        if any(text.startswith(name[i:], start) for name in self._names for i in range(1, len(name))):
            text = text[:start] + mark + text[start:]
        return text

    def _run(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """What the template writes."""
        names: dict[str, Any] = {
            **self._special_tokens,
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "range": _Ranges(),
        }
        written: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(**names):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise _Refused(f"it writes more than {MAX_OUTPUT} characters")
                written.append(piece)
        except Exception as problem:  # whatever a foreign program runs into
            raise ConversationError(f"the model's chat template refuses the messages: {problem}") from None
        return "".join(written)


def _given(
    messages: Sequence[Message | Mapping[str, Any]], tools: Sequence[Tool], strict: bool
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Messages for the template, and a line for everything changed."""
    plain = None if tools else read_as_given(messages)
    if plain is not None:
        turns, lines = plain
        if strict and lines:
            raise ConversationError(lines[0], hint="this is refused in strict mode, where nothing is changed")
        return [{"role": role, "content": text} for role, text in turns], lines
    if tools and strict:
        raise ConversationError(_OWN_TOOLS, hint="this is refused in strict mode")
    read = read_strictly if strict else read_leniently
    conversation = read(messages, with_tools=bool(tools))
    head = [declaration(tools)] if tools else []
    if conversation.system is not None:
        head.append(conversation.system)
    given = [{"role": "system", "content": AFTER_SYSTEM.join(head)}] if head else []
    roles = {"user": "user", "model": "assistant"}
    given += [{"role": roles[turn.role], "content": turn.text} for turn in conversation.turns]
    return given, ((_OWN_TOOLS,) if tools else ()) + conversation.normalisations


def _mark(messages: Sequence[Mapping[str, str]]) -> str:
    texts = [text for message in messages for text in message.values()]
    for mark in _MARKS:
        if not any(mark in text for text in texts):
            return mark
    raise ConversationError("the messages hold every one of the noncharacters U+FDD0 to U+FDEF")


def _raise(message: Any) -> None:
    raise _Refused(str(message))


class _Ranges:
    """`range` for one run of a template, with a limit on all of them together."""

    def __init__(self) -> None:
        self._left = MAX_ITEMS

    def __call__(self, *bounds: int) -> range:
        counted = range(*bounds)
        self._left -= len(counted)
        if self._left < 0:
            raise _Refused(f"it counts further than {MAX_ITEMS}")
        return counted


def _environment() -> tuple[Any, type[Exception]]:
    """Jinja's sandbox with what transformers offers to templates, and the error of what is no template."""
    try:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise MissingExtraError("the chat template of this model", "families") from None

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if not all(isinstance(side, (int, float)) and abs(side) < 2**31 for side in (left, right)):
                raise _Refused(f"it uses {operator} on what are not small numbers")
            if operator == "**" and abs(right) > 32:
                raise _Refused("it computes a large power")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, str) and attr in _FORBIDDEN:
                return False
            return super().is_safe_attribute(obj, attr, value)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    for name in ("format", "center", "wordwrap", "batch", "slice"):
        environment.filters.pop(name)
    return environment, TemplateError


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
