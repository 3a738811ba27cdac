"""The chat format: messages to token ids. The only file that knows the turn markers.

In strict mode the ids are those of the reference template, and what it refuses raises. Otherwise (the
default) messages are first put into alternating turns, and every change is reported. Text is never read as a
marker. After a last message from the assistant the generation prompt opens a new turn, as the template does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemlet.errors import ConversationError
from gemlet.text.conversation import Conversation, Turn, read_leniently, read_strictly
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import Tool, call_text, declaration, result_text
from gemlet.types import Message

TURN_START, TURN_END = "<start_of_turn>", "<end_of_turn>"
AFTER_SYSTEM = "\n\n"
"""Follows the declaration of tools and the system message at the head of the first turn."""

_REVISION = 2
"""To be raised when the same messages give other ids."""

# What a base model reads before the conversation: it goes on as it sees others begin.
_BASE_OPENING = "A conversation with a helpful assistant that gives correct and clear answers."
_BASE_EXAMPLES = (
    Turn("user", "Hello!"),
    Turn("model", "Hello! How can I help you today?"),
    Turn("user", "What is the largest planet in the solar system?"),
    Turn("model", "The largest planet in the solar system is Jupiter."),
    Turn("user", "Write a Python function that adds two numbers."),
    Turn("model", "def add(a, b):\n    return a + b"),
    Turn("user", "Give me two tips for learning a language."),
    Turn(
        "model",
        "1. Practise a little every day.\n2. Listen to people who speak the language, and answer them.",
    ),
    Turn("user", "My favourite colour is green. What is my favourite colour?"),
    Turn("model", "Your favourite colour is green."),
)
# What it reads besides when there are tools: how they are called, and when they are not.
_BASE_TOOL = Tool(
    "get_population",
    "The number of people who live in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
_BASE_TOOL_EXAMPLES = (
    Turn("user", "How many people live in Oslo?"),
    Turn("model", call_text(_BASE_TOOL.name, '{"city":"Oslo"}')),
    Turn("user", result_text(_BASE_TOOL.name, "717710")),
    Turn("model", "717,710 people live in Oslo."),
    Turn("user", "Thank you!"),
    Turn("model", "You are welcome!"),
)
_BASE_NAMES = {"user": "User:\n", "model": "Assistant:\n"}
_BASE_INSTRUCTIONS = "Instructions:\n"
_BASE_BETWEEN = "\n\n"
_BASE_STOP = ("\n\nUser:", "\nUser:", "\n\nAssistant:", "\nAssistant:")
_BASE_LINE = (
    "this is a base model without a chat format: "
    f"the conversation is given as plain dialogue after {len(_BASE_EXAMPLES) // 2} examples"
)


JINJA_TEMPLATE = f"""\
{{{{- bos_token -}}}}
{{%- if messages[0]['role'] == 'system' -%}}
  {{%- set opening, turns = messages[0]['content'] + {AFTER_SYSTEM!r}, messages[1:] -%}}
{{%- else -%}}
  {{%- set opening, turns = '', messages -%}}
{{%- endif -%}}
{{%- for message in turns -%}}
  {{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}}
  {{{{- '{TURN_START}' + role + '\\n' + (opening if loop.first else '') -}}}}
  {{{{- message['content'] | trim + '{TURN_END}\\n' -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
  {{{{- '{TURN_START}model\\n' -}}}}
{{%- endif -%}}
"""
"""The format for programs that read Jinja: of messages with text contents, in alternating turns."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids, with exactly one BOS.

    `loss_mask` has one flag per id: true for what the model is to learn, its answers and the tokens that end
    them. `normalisations`: a line for each change. `stop`: texts that end the answer, beside its stop ids.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    normalisations: tuple[str, ...]
    stop: tuple[str, ...] = ()


def render(
    messages: Sequence[Message | Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Tool] = (),
    add_generation_prompt: bool = True,
    strict: bool = False,
) -> Rendered:
    """The ids of a conversation, ending where the model's turn begins, or without that prompt.

    `tools` are declared before everything else, so that what follows does not change the ids up to there.
    The ids of a conversation are the beginning of those of its continuation. Raises ConversationError or
    UnsupportedParameterError naming the message, TextError for half of a surrogate pair.
    """
    read = read_strictly if strict else read_leniently
    conversation = read(messages, with_tools=bool(tools))
    start, end = _marker(tokenizer, TURN_START), _marker(tokenizer, TURN_END)
    newline = tokenizer.encode("\n")
    ids, mask = [tokenizer.bos_id], [False]
    for turn in _with_head(conversation, tools):
        head = f"{turn.role}\n"
        # One text: a newline before the content must become one token with the head's.
        text = tokenizer.encode(head + turn.text)
        learned = turn.role == "model"
        unlearned = len(tokenizer.encode(head)) if learned else len(text)
        ids += [start, *text, end, *newline]
        mask += [False] * (1 + unlearned) + [True] * (len(text) - unlearned) + [learned]
        mask += [False] * len(newline)
    if add_generation_prompt:
        prompt = [start, *tokenizer.encode("model\n")]
        ids += prompt
        mask += [False] * len(prompt)
    return Rendered(tuple(ids), tuple(mask), conversation.normalisations)


def render_base(
    messages: Sequence[Message | Mapping[str, Any]], tokenizer: Tokenizer, *, tools: Sequence[Tool] = ()
) -> Rendered:
    """The ids of a conversation for a model without a chat format: a plain dialogue after a few examples.

    The answer ends at one of `stop`; nothing is marked to be learned. Raises as `render` does.
    """
    conversation = read_leniently(messages, with_tools=bool(tools))
    parts = [_BASE_OPENING, *_dialogue(_BASE_EXAMPLES)]
    if tools:
        parts += [_BASE_INSTRUCTIONS + declaration([_BASE_TOOL]), *_dialogue(_BASE_TOOL_EXAMPLES)]
    instructions = [declaration(tools)] if tools else []
    if conversation.system is not None:
        instructions.append(conversation.system.strip())
    if instructions:
        parts.append(_BASE_INSTRUCTIONS + AFTER_SYSTEM.join(instructions))
    parts += _dialogue(conversation.turns)
    parts.append(_BASE_NAMES["model"])
    ids = tokenizer.encode(_BASE_BETWEEN.join(parts), bos=True)
    lines = (_BASE_LINE, *conversation.normalisations)
    return Rendered(tuple(ids), (False,) * len(ids), lines, _BASE_STOP)


def template_sha256(*, base: bool = False) -> str:
    """Identifies the chat format, or the frame for base models, and its version."""
    sample = (declaration([_BASE_TOOL]), [(turn.role, turn.text) for turn in _BASE_TOOL_EXAMPLES])
    parts: tuple[object, ...] = (_REVISION, TURN_START, TURN_END, AFTER_SYSTEM, sample)
    if base:
        examples = [(turn.role, turn.text) for turn in _BASE_EXAMPLES]
        wording = (_BASE_OPENING, examples, _BASE_NAMES, _BASE_INSTRUCTIONS, _BASE_BETWEEN, _BASE_STOP)
        parts = (_REVISION, *wording, sample)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _with_head(conversation: Conversation, tools: Sequence[Tool]) -> tuple[Turn, ...]:
    """The turns with the declaration of tools and the system message at the head of the first one."""
    head = declaration(tools) + AFTER_SYSTEM if tools else ""
    if conversation.system is not None:
        head += conversation.system + AFTER_SYSTEM
    if not (head and conversation.turns):
        return conversation.turns
    first, *others = conversation.turns
    return (Turn(first.role, head + first.text), *others)


def _dialogue(turns: Sequence[Turn]) -> list[str]:
    return [_BASE_NAMES[turn.role] + turn.text for turn in turns]


def _marker(tokenizer: Tokenizer, name: str) -> int:
    found = tokenizer.control_id(name)
    if found is None:
        raise ConversationError(f"the tokenizer has no {name}: this is not a chat model of the Gemma family")
    return found
