"""Grammars that keep calls well-formed: declared functions only, arguments that satisfy their schemas.

Each is a Lark grammar as llguidance reads it, with a JSON schema behind `%json`. Whitespace is fixed, so that
a call that comes back in the history has the text it was generated with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gemlet.text.tools import (
    BEFORE_ARGUMENTS,
    BETWEEN_CALLS,
    SEPARATORS,
    ToolUse,
    call_opening,
)

MAX_CALLS = 16
"""Calls of one answer. Without a limit a small model that has to call something may never end."""

_SPACE = r"[ \t\r\n]*"
# What may stand before a call in free text: whitespace since the line's start, or a labelled fence.
_LEAD = rf"((.|\n)*\n)?{_SPACE}(```[a-z_]+[ \t]*\n{_SPACE})?"
_FENCE_END = "\n```"

# Keywords beside which a schema that says nothing of further keys cannot be closed: they may name some.
_COMBINING = (
    "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas",
    "patternProperties", "additionalProperties", "unevaluatedProperties",
)  # fmt: skip


def call_grammar(use: ToolUse, answer: str | None = None) -> str:
    """The grammar of an answer with calls.

    Mode "required": one call or, with `parallel`, up to MAX_CALLS, one a line, of the declared functions or
    of the chosen one. Mode "auto": free text; once a declared function's call has begun, at the start of a
    line, it is as constrained as a required one, and nothing but further calls follows. With `answer`, a JSON
    schema, it is either JSON of that schema or calls. Whether every schema can be enforced is known when
    llguidance compiles the grammar.
    """
    choice = use.choice
    callable_tools = [tool for tool in use.tools if choice.name in (None, tool.name)]
    further = f"({_quoted(BETWEEN_CALLS)} call){{0,{MAX_CALLS - 1}}}" if use.parallel else ""
    free = choice.mode == "auto" and answer is None
    if choice.mode == "required":
        lines = [f"start: call {further}".rstrip()]
    elif answer is not None:
        lines = [f"start: answer | call {further}".rstrip(), f"answer: %json {_laid_out(json.loads(answer))}"]
    else:
        begun = _either(f"begun_{i} rest_{i}" for i in range(len(callable_tools)))
        lines = [f"start: TEXT | ({begun}) {further} {_quoted(_FENCE_END)}?", r"TEXT: /(.|\n)*/"]
        # Lazy: text ends where a call has begun, and from there the call's rules hold.
        lines += [f"begun_{i}[lazy]: /{_begun(tool.name)}/" for i, tool in enumerate(callable_tools)]
    if use.parallel or not free:
        # Cut as JSON is: a longer literal would hide that JSON may begin in the same way.
        calls = (f"{_quoted(*call_opening(tool.name))} rest_{i}" for i, tool in enumerate(callable_tools))
        lines.append(f"call: {_either(calls)}")
    for i, tool in enumerate(callable_tools):
        lines.append(f'rest_{i}: {_quoted(*BEFORE_ARGUMENTS)} arguments_{i} "}}"')
        lines.append(f"arguments_{i}: %json {_laid_out(closed(tool.parameters))}")
    return "\n".join(lines) + "\n"


def _begun(name: str) -> str:
    """The pattern of free text up to and with the opening of a call of this function."""
    return rf'{_LEAD}\{{{_SPACE}"name"{_SPACE}:{_SPACE}"{name}"'


def _laid_out(schema: dict[str, Any]) -> str:
    """The schema with how its JSON is written."""
    item, key = SEPARATORS
    layout = {"whitespace_flexible": False, "item_separator": item, "key_separator": key}
    return json.dumps({**schema, "x-guidance": layout})


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema with no further keys in objects that list theirs and leave open whether there are more.

    Whatever satisfies it satisfies the schema. A small model would go on inventing keys.
    """
    result = dict(schema)
    if any(keyword in schema for keyword in _COMBINING):
        return result
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        result["properties"] = {
            name: closed(inner) if isinstance(inner, Mapping) else inner for name, inner in properties.items()
        }
        required = schema.get("required", [])
        if isinstance(required, list) and all(name in properties for name in required):
            result["additionalProperties"] = False
    if isinstance(schema.get("items"), Mapping):
        result["items"] = closed(schema["items"])
    return result


def _either(options: Iterable[str]) -> str:
    return " | ".join(options)


def _quoted(*texts: str) -> str:
    """Literals of the grammar, one after the other."""
    return " ".join(map(json.dumps, texts))
