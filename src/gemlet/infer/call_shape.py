"""The shape of an answer that may call tools, their schemas checked as every other schema is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemlet.errors import InvalidRequestError, UnsupportedParameterError
from gemlet.infer.expressions import check_size
from gemlet.infer.json_schema import schema_text
from gemlet.infer.response_format import Shape
from gemlet.text.call_grammar import call_grammar
from gemlet.text.tools import BEFORE_ARGUMENTS, Tool, ToolUse

MAX_CALLS_GRAMMAR = 512 * 2**10
"""Bytes of the grammar of all tools together."""


def call_shape(use: ToolUse, answer: Shape | None) -> Shape:
    """Calls of tools, or with `answer` calls or JSON of that schema.

    Raises UnsupportedParameterError of "tools" that names the function and the place in its schema.
    """
    tools = tuple(replace(tool, parameters=_checked(tool)) for tool in use.tools)
    grammar = call_grammar(replace(use, tools=tools), None if answer is None else answer.text)
    check_size("the grammar of all tools", len(grammar.encode()), MAX_CALLS_GRAMMAR)
    begins_free = use.choice.mode == "auto" and answer is None
    return Shape("lark", grammar, "tools", json_behind="".join(BEFORE_ARGUMENTS) if begins_free else "")


def _checked(tool: Tool) -> Mapping[str, Any]:
    try:
        schema: Mapping[str, Any] = json.loads(schema_text(tool.parameters, "tools"))
    except UnsupportedParameterError as error:
        problem = f"tools: function {tool.name}: {error.message}"
        raise UnsupportedParameterError("tools", problem, hint=error.hint) from None
    except InvalidRequestError as error:
        problem = f"tools: function {tool.name}: {error.message}"
        raise InvalidRequestError(problem, hint=error.hint) from None
    return schema
