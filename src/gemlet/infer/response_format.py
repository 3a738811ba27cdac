"""What shape an answer is asked to have: the parameters `response_format`, `regex` and `grammar`, checked.

Nothing is compiled here; see `constrain`. What cannot be enforced is refused by its name and place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemlet.errors import InvalidRequestError, UnsupportedParameterError
from gemlet.infer.expressions import check_expression, check_size
from gemlet.infer.json_schema import LAYOUT, schema_text

MAX_GRAMMAR = 64 * 2**10
MAX_REGEX = 8 * 2**10
"""Bytes of UTF-8 that a grammar and a regular expression may have."""

MAX_RULES = 500
"""Colons of a grammar: the compiler follows its rules one inside the other."""

MAX_REPEATED = 2000
"""Pieces of a regular expression with its counted repetitions written out: a token's time grows with them."""

_REFUSED = re.compile(r"%llguidance|[\[,]\s*temperature\s*=")
_NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""Nobody asks for the text that must come next: of a rule without an end it would never end."""

_JSON = re.compile(r"%json\s*")


@dataclass(frozen=True)
class Shape:
    """A shape that can be compiled. `text`: JSON for a schema, else the expression or grammar itself.

    json_behind: of a grammar, the text behind whose first occurrence all that comes is JSON.
    """

    kind: Literal["schema", "regex", "lark"]
    text: str
    parameter: str  # which the caller used, for messages
    json_behind: str | None = None


def shape_of(response_format: object, regex: object, grammar: object) -> Shape | None:
    """The shape that the parameters ask for, None for plain text.

    Raises InvalidRequestError for more than one of them, a wrong type or too much of it, and
    UnsupportedParameterError for a type of format or a keyword that cannot be enforced.
    """
    given = {"response_format": response_format, "regex": regex, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InvalidRequestError(f"{' and '.join(names)} exclude each other: an answer has one shape")
    if regex is not None:
        return Shape("regex", _checked_text("regex", regex, MAX_REGEX), "regex")
    if grammar is not None:
        return Shape("lark", _checked_grammar(grammar), "grammar")
    return None if response_format is None else _of_format(response_format)


def _of_format(given: object) -> Shape | None:
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"response_format must be an object with a type, not {given!r:.80}")
    kind = given.get("type")
    allowed = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    if kind not in ("text", "json_object", "json_schema"):
        hint = "types are text, json_object and json_schema"
        message = f"response_format: type {kind!r:.80} is not supported"
        raise UnsupportedParameterError("response_format", message, hint=hint)
    _refuse_others("response_format", given, allowed)
    if kind == "text":
        return None
    if kind == "json_object":
        return Shape("schema", '{"type":"object"}', "response_format")
    inner = given.get("json_schema")
    if not isinstance(inner, Mapping):
        raise InvalidRequestError("response_format: json_schema must be an object with name and schema")
    _refuse_others("response_format.json_schema", inner, {"name", "schema", "strict", "description"})
    for name, kinds in (("name", str), ("description", str), ("strict", bool)):
        if inner.get(name) is not None and not isinstance(inner[name], kinds):
            wanted = "text" if kinds is str else "true or false"
            raise InvalidRequestError(f"response_format.json_schema: {name} must be {wanted}")
    if inner.get("schema") is None:
        raise InvalidRequestError("response_format.json_schema: schema is missing")
    return Shape("schema", schema_text(inner["schema"], "response_format"), "response_format")


def _refuse_others(where: str, given: Mapping[Any, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            hint = f"known are {', '.join(sorted(known))}"
            raise UnsupportedParameterError("response_format", f"{where}: unknown key {key!r:.80}", hint=hint)


def _checked_text(name: str, value: object, limit: int) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{name} must be text that is not empty, not {value!r:.80}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{name} holds half of a surrogate pair, which is not text") from None
    check_size(name, size, limit)
    check_expression(name, value, MAX_GRAMMAR if name == "grammar" else MAX_REPEATED)
    return value


def _checked_grammar(value: object) -> str:
    text = _checked_text("grammar", value, MAX_GRAMMAR)
    if text.count(":") > MAX_RULES:
        raise InvalidRequestError(f"grammar: more than {MAX_RULES} rules")
    if (refused := _REFUSED.search(text)) is not None:
        raise UnsupportedParameterError("grammar", f"grammar: {refused[0].strip('[, ')} is not supported")
    return _with_checked_schemas(text) + _NO_FORCING


def _with_checked_schemas(grammar: str) -> str:
    """Every `%json {...}` checked as a schema of its own is, and written compactly."""
    parts, end = [], 0
    for found in _JSON.finditer(grammar):
        if found.start() < end:
            continue  # inside the schema before it
        try:
            schema, after = json.JSONDecoder().raw_decode(grammar, found.end())
        except (ValueError, RecursionError):
            hint = "where it is meant as text, write it as two literals"
            raise InvalidRequestError("grammar: %json is not followed by a JSON schema", hint=hint) from None
        schema = json.loads(schema_text(schema, "grammar", within=True))
        parts += [grammar[end : found.end()], json.dumps({**schema, "x-guidance": LAYOUT})]
        end = after
    return "".join([*parts, grammar[end:]])
