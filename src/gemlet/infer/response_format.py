"""What shape an answer is asked to have: the parameters `response_format`, `regex` and `grammar`, checked.

Nothing is compiled here. A JSON schema is walked keyword by keyword: one that the grammar would not enforce
is refused by its name and place, because a schema that is half kept is worse than none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemlet.errors import InvalidRequestError, UnsupportedParameterError

MAX_SCHEMA = 128 * 2**10
MAX_GRAMMAR = 64 * 2**10
MAX_REGEX = 8 * 2**10
"""Bytes of UTF-8 that a schema (as compact JSON), a grammar and a regular expression may have."""

MAX_DEPTH = 64
"""Values inside one another in a schema, and brackets inside one another in a regex or a grammar."""

MAX_COUNT = 100_000
"""The largest number of repetitions: of characters, items or properties, and in a regex."""

MAX_REPEATED = 10_000
"""Pieces of an expression with its counted repetitions written out: the time of a token grows with them."""

MAX_LINKS = 500
"""References of a schema, and rules of a grammar: the compiler follows them one inside the other."""

MAX_MULTIPLE = 100_000
"""The least common multiple of what a schema's numbers must be multiples of."""

_COUNTED = re.compile(r"\\.|\{(\d+)(?:,(\d*))?\}|[()]|.", re.DOTALL)

_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMA = frozenset({"additionalProperties", "additionalItems"})
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_VALUES = frozenset(
    {"type", "enum", "const", "required", "pattern", "format", "$ref", "$schema"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
_NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
)
KEYWORDS = _SCHEMAS | _SCHEMA | _NAMED_SCHEMAS | _COUNTS | _VALUES | _NOTES | {"items"}
"""Keywords of JSON Schema that are enforced, or that only tell a reader something."""


@dataclass(frozen=True)
class Shape:
    """A shape that can be compiled. `text`: JSON for a schema, else the expression or grammar itself."""

    kind: Literal["schema", "regex", "lark"]
    text: str
    parameter: str  # which the caller used, for messages


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
        return Shape("lark", _checked_text("grammar", grammar, MAX_GRAMMAR), "grammar")
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
    return Shape("schema", schema_text(inner["schema"]), "response_format")


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
    _check_size(name, size, limit)
    _check_expression(name, value)
    if name == "grammar" and value.count(":") > MAX_LINKS:
        raise InvalidRequestError(f"grammar: more than {MAX_LINKS} rules")
    return value


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise InvalidRequestError(f"{name} has {size} bytes, at most {limit} are compiled")


def _check_expression(name: str, text: str) -> None:
    """Refuse an expression that would take very long to follow, or a parser too deep."""
    _check_brackets(name, text)
    if name != "grammar" and (len(text) - len(text.rstrip("\\"))) % 2:
        raise InvalidRequestError(f"{name} ends in a backslash that escapes nothing")
    sizes, last = [0], 0
    for part in _COUNTED.finditer(text):
        if part[1] is not None:
            sizes[-1] += last * (max(int(part[1][:9]), int((part[2] or "0")[:9])) - 1)
        elif part[0] == "(":
            sizes.append(0)
        elif part[0] == ")":
            last = sizes.pop() if len(sizes) > 1 else 0
            sizes = sizes or [0]
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
        if sizes[-1] > (MAX_GRAMMAR if name == "grammar" else MAX_REPEATED):
            raise InvalidRequestError(f"{name}: too large with its repetitions written out")


def _check_brackets(name: str, text: str) -> None:
    """Refuse what a recursive parser would follow too deep. Escapes are not looked at: no harm is done."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidRequestError(f"{name}: more than {MAX_DEPTH} brackets inside one another")
        elif character in ")]}":
            depth = max(0, depth - 1)


def schema_text(schema: object) -> str:
    """A JSON schema as compact JSON, its keywords checked. Raises as `shape_of` does."""
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(f"a JSON schema must be an object, not {schema!r:.80}")
    _check_depth(schema)
    try:
        text = json.dumps(schema, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the JSON schema is not JSON: {error}") from None
    _check_size("the JSON schema", len(text), MAX_SCHEMA)
    if text.count('"$ref"') > MAX_LINKS:
        raise InvalidRequestError(f"the JSON schema has more than {MAX_LINKS} references")
    plain = json.loads(text)
    _check_schema(plain, "#")
    multiples = re.findall(r'"multipleOf":([0-9.]+)', text)
    if math.lcm(*(max(1, int(one.replace(".", "")[:12])) for one in multiples)) > MAX_MULTIPLE:
        _refuse("#", "multipleOf", "the values of multipleOf cannot be enforced together")
    return text


def _check_depth(schema: object) -> None:
    """Before anything recursive touches it; a schema that contains itself ends here too."""
    level = [schema]
    seen = 0
    for _ in range(MAX_DEPTH):
        inside: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                inside += value.values()
            elif isinstance(value, (list, tuple)):
                inside += value
        level = inside
        seen += len(level)
        if seen > MAX_SCHEMA:
            raise InvalidRequestError(f"the JSON schema has more than {MAX_SCHEMA} values")
        if not level:
            return
    raise InvalidRequestError(f"the JSON schema is nested more than {MAX_DEPTH} deep")


def _check_schema(schema: object, where: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"the JSON schema at {where} must be an object, not {schema!r:.80}")
    for key, value in schema.items():
        place = f"{where}/{key}"
        if key not in KEYWORDS:
            _refuse(where, key, f"the keyword {key!r:.80} cannot be enforced")
        if key in _COUNTS:
            _check_count(place, value)
        elif key in _SCHEMA or (key == "items" and not isinstance(value, list)):
            _check_schema(value, place)
        elif key in _SCHEMAS or key == "items":
            for i, item in enumerate(_as(list, value, place)):
                _check_schema(item, f"{place}/{i}")
        elif key in _NAMED_SCHEMAS:
            for name, item in _as(dict, value, place).items():
                _check_schema(item, f"{place}/{name}")
    _check_values(schema, where)


def _check_values(schema: dict[str, Any], where: str) -> None:
    reference = schema.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        _refuse(where, "$ref", f"the reference {reference!r:.80} leads out of the schema")
    if reference.strip("#") and not reference.startswith("#/"):
        _refuse(where, "$ref", f"the reference {reference!r:.80} is not a path from the root")
    if "pattern" in schema:
        pattern = _as(str, schema["pattern"], f"{where}/pattern")
        _check_size(f"the pattern at {where}", len(pattern.encode()), MAX_REGEX)
        _check_expression(f"the pattern at {where}", pattern)
    for pattern in schema.get("patternProperties", ()):
        _check_expression(f"patternProperties at {where}", pattern)
    # A grammar cannot keep two properties from having the same name, and a reader then sees only one.
    least, required = schema.get("minProperties", 0), schema.get("required", [])
    if least > max(1, len(set(map(str, _as(list, required, f"{where}/required"))))):
        _refuse(where, "minProperties", "minProperties beyond the required ones cannot be enforced")


def _check_count(place: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"the JSON schema at {place}: {value!r:.80} is not a whole number from 0")
    if value > MAX_COUNT:
        raise UnsupportedParameterError(
            "response_format", f"the JSON schema at {place}: {value} is too many, at most {MAX_COUNT}"
        )


def _as(kind: type, value: object, place: str) -> Any:
    if not isinstance(value, kind):
        names: dict[type, str] = {list: "a list", dict: "an object", str: "text"}
        wanted = names[kind]
        raise InvalidRequestError(f"the JSON schema at {place}: must be {wanted}, not {value!r:.80}")
    return value


def _refuse(where: str, keyword: str, problem: str) -> None:
    hint = f"leave {keyword} out of the schema, and check the answer for it afterwards"
    raise UnsupportedParameterError("response_format", f"the JSON schema at {where}: {problem}", hint=hint)
