"""Tools: their declarations checked, how a prompt names them, and the text of a call and of its result.

The model has no token for calls. It is told to write a call as JSON, one a line, and a call is found by
reading the text: `call_reader` reads it, `call_grammar` makes sure that it can be read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemlet.errors import InvalidRequestError, UnsupportedParameterError
from gemlet.text.tokenizer import check_text
from gemlet.types import ToolCall

MAX_TOOLS = 128
MAX_DESCRIPTION = 16_384
"""Characters of a function's description."""
MAX_PARAMETERS = 65_536
"""Characters of a function's parameters as JSON."""
MAX_TOTAL = 1_048_576
"""Characters of all declarations."""
MAX_DEPTH = 64
"""Lists and objects inside each other, in the parameters' schema."""

_MAX_BITS = 1024  # what a float holds: beyond it JSON readers differ
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SEPARATORS = (",", ":")
"""Between items and after a key, in everything that the model reads or writes: no spaces."""
BEFORE_ARGUMENTS = (SEPARATORS[0], '"parameters"', SEPARATORS[1])
"""What stands between a call's opening and its arguments; a brace ends the call after them."""
BETWEEN_CALLS = "\n"
BETWEEN_RESULTS = "\n\n"

# The wording that Google documents for Gemma 3, with the JSON form of a call.
_INSTRUCTIONS = """You have access to functions. If you decide to invoke any of the function(s),
you MUST put it in the format of
{"name":function name,"parameters":dictionary of argument name and its value}
For several calls, put each on a line of its own.

You SHOULD NOT include any other text in the response if you call a function
"""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of an object."""

    name: str
    description: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ToolChoice:
    """Whether the answer may be, must not be, or has to be calls; `name`: of this function only."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request, and how it may use them. `parallel`: several calls in one answer."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    parallel: bool = True


def read_tool_use(tools: Any, choice: Any, parallel: Any) -> ToolUse | None:
    """OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`; None where no call may be made.

    Raises as `read_tools` and `read_tool_choice` do.
    """
    read = read_tools(tools)
    chosen, several = read_tool_choice(choice, read), read_parallel_tool_calls(parallel)
    return None if chosen.mode == "none" else ToolUse(read, chosen, several)


def read_tools(tools: Any) -> tuple[Tool, ...]:
    """The functions of an OpenAI `tools` list; none for None.

    Raises InvalidRequestError naming the place, UnsupportedParameterError for kinds of tools that only
    hosted models have. Whether a schema can be enforced is seen when its grammar is compiled.
    """
    if tools is None:
        return ()
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InvalidRequestError(f"tools: must be a list, not {type(tools).__name__}")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"tools: {len(tools)} are too many, {MAX_TOOLS} are allowed")
    read: dict[str, Tool] = {}
    for i, given in enumerate(tools):
        tool = given if isinstance(given, Tool) else _read_tool(f"tools[{i}]", given)
        if tool.name in read:
            raise InvalidRequestError(f"tools[{i}].function.name: {tool.name!r} is declared twice")
        read[tool.name] = tool
    result = tuple(read.values())
    if sum(map(len, map(_declared, result))) > MAX_TOTAL:
        raise InvalidRequestError(f"tools: together they are longer than {MAX_TOTAL} characters")
    return result


def read_tool_choice(choice: Any, tools: Sequence[Tool]) -> ToolChoice:
    """An OpenAI `tool_choice`. None is "auto" where there are tools.

    Raises InvalidRequestError for what these tools cannot fulfil, UnsupportedParameterError for kinds of
    choices that are known and not enforced.
    """
    if choice is None:
        return ToolChoice("auto" if tools else "none")
    if isinstance(choice, Mapping):
        return ToolChoice("required", _chosen_name(choice, tools))
    if not isinstance(choice, str) or choice not in ("none", "auto", "required"):
        known = '"none", "auto", "required" or {"type": "function", "function": {"name": ...}}'
        raise InvalidRequestError(f"tool_choice: {choice!r} is unknown; it must be {known}")
    if not tools and choice == "required":
        raise InvalidRequestError("tool_choice: a call is required, but no tools are declared")
    if not tools or choice == "none":
        return ToolChoice("none")
    return ToolChoice("auto" if choice == "auto" else "required")


def read_parallel_tool_calls(parallel: Any) -> bool:
    """OpenAI's `parallel_tool_calls`: whether an answer may hold several calls. None is true."""
    if parallel is None:
        return True
    if not isinstance(parallel, bool):
        raise InvalidRequestError(f"parallel_tool_calls: must be true or false, not {parallel!r}")
    return parallel


def declaration(tools: Sequence[Tool]) -> str:
    """What the model is told about its tools. It depends on them alone, so that it is read once."""
    functions = ",\n".join(map(_declared, tools))
    return f"{_INSTRUCTIONS}[\n{functions}\n]"


def call_text(name: str, arguments: str) -> str:
    """A call as the model writes it. `arguments` is kept as it is where it is JSON, else made a string."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"{''.join((*call_opening(name), *BEFORE_ARGUMENTS))}{arguments}}}"


def calls_text(text: str, calls: Sequence[ToolCall]) -> str:
    """An answer with calls as the model writes it: its text, if any, then a line for each call."""
    return BETWEEN_CALLS.join([*([text] if text else []), *(call_text(c.name, c.arguments) for c in calls)])


def call_opening(name: str) -> tuple[str, ...]:
    """How a call begins, cut as JSON is: with this it is one, and the function is known."""
    return ("{", '"name"', SEPARATORS[1], json.dumps(name))


def result_text(name: str | None, text: str) -> str:
    """What a function gave back, as the model reads it."""
    return f"Result of {name}:\n{text}" if name else f"Result of the tool:\n{text}"


def _declared(tool: Tool) -> str:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters
    return json.dumps(function, ensure_ascii=False, separators=SEPARATORS)


def _read_tool(where: str, given: Any) -> Tool:
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"{where}: must be an object with type and function")
    kind = given.get("type")
    if isinstance(kind, str) and kind != "function":
        problem = f"{where}.type: {kind!r} is not supported, only 'function' is"
        raise UnsupportedParameterError(f"{where}.type", problem)
    if kind is None:
        raise InvalidRequestError(f'{where}.type: must be "function"')
    _expect_keys(where, given, ("type", "function"))
    function = given.get("function")
    where = f"{where}.function"
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f"{where}: must be an object with a name")
    _expect_keys(where, function, ("name", "description", "parameters", "strict"))
    if not isinstance(function.get("strict"), (bool, type(None))):
        raise InvalidRequestError(f"{where}.strict: must be true or false")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        allowed = "1 to 64 letters, digits, underscores and dashes"
        raise InvalidRequestError(f"{where}.name: must be {allowed}, not {name!r}")
    if description is not None:
        check_text(description, f"{where}.description")
        if len(description) > MAX_DESCRIPTION:
            problem = f"longer than {MAX_DESCRIPTION} characters"
            raise InvalidRequestError(f"{where}.description: {problem}")
    return Tool(name, description, _read_parameters(f"{where}.parameters", function.get("parameters")))


def _read_parameters(where: str, given: Any) -> Mapping[str, Any]:
    """A copy, so that the caller's later changes do not reach it. None given, or empty, is no parameters."""
    if given is None or given == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"{where}: must be a JSON schema, not {type(given).__name__}")
    if given.get("type", "object") != "object":
        raise InvalidRequestError(f'{where}.type: must be "object", not {given["type"]!r}')
    schema = _plain(where, given, MAX_DEPTH)
    assert isinstance(schema, dict)
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise InvalidRequestError(f"{where}.properties: must be an object")
    for name, inner in properties.items():
        if not isinstance(inner, (dict, bool)):
            raise InvalidRequestError(f"{where}.properties.{name}: must be a JSON schema")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise InvalidRequestError(f"{where}.required: must be a list of names")
    if len(json.dumps(schema, ensure_ascii=False, separators=SEPARATORS)) > MAX_PARAMETERS:
        raise InvalidRequestError(f"{where}: longer than {MAX_PARAMETERS} characters")
    return {"type": "object", **schema}


def _plain(where: str, value: Any, depth: int) -> Any:
    """A copy made of JSON's own types. InvalidRequestError for other values and too many levels."""
    if depth == 0:
        raise InvalidRequestError(f"{where}: more than {MAX_DEPTH} levels of lists and objects")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise InvalidRequestError(f"{where}: a whole number of more than {_MAX_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(f"{where}: {value} is not JSON")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        check_text(value, where)
        return value
    if isinstance(value, Mapping):
        return dict(_plain_items(where, value, depth))
    if isinstance(value, (list, tuple)):
        return [_plain(f"{where}[{i}]", item, depth - 1) for i, item in enumerate(value)]
    raise InvalidRequestError(f"{where}: {type(value).__name__} is not JSON")


def _plain_items(where: str, value: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        check_text(key, f"a key of {where}")
        yield key, _plain(f"{where}.{key}", item, depth - 1)


def _chosen_name(choice: Mapping[Any, Any], tools: Sequence[Tool]) -> str:
    kind = choice.get("type")
    if isinstance(kind, str) and kind != "function":
        problem = f"tool_choice.type: {kind!r} is not supported, only 'function' is"
        raise UnsupportedParameterError("tool_choice.type", problem)
    _expect_keys("tool_choice", choice, ("type", "function"))
    function = choice.get("function")
    if kind is None or not isinstance(function, Mapping):
        shape = '{"type": "function", "function": {"name": ...}}'
        raise InvalidRequestError(f"tool_choice: must have the form {shape}")
    _expect_keys("tool_choice.function", function, ("name",))
    name = function.get("name")
    for tool in tools:
        if tool.name == name:
            return tool.name
    declared = ", ".join(tool.name for tool in tools) or "none"
    raise InvalidRequestError(f"tool_choice.function.name: {name!r} is not declared; declared: {declared}")


def _expect_keys(where: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise InvalidRequestError(f"{where}: the key {key!r} is unknown; known are {', '.join(known)}")
