"""JSON schemas, walked keyword by keyword before they are compiled.

One that the grammar would not enforce is refused by its name and place, because a schema that is half kept
is worse than none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from gemlet.errors import InvalidRequestError, UnsupportedParameterError
from gemlet.infer.expressions import check_expression, check_size
from gemlet.infer.patterns import enforced

MAX_SCHEMA = 128 * 2**10
"""Bytes that a schema may have as compact JSON."""

MAX_PATTERN = 8 * 2**10
"""Bytes of a pattern."""

MAX_REPEATED = 2000
"""Pieces of a pattern with its counted repetitions written out: the time of a token grows with them."""

MAX_DEPTH = 64
"""Values inside one another."""

MAX_COUNT = 100_000
"""The largest number of repetitions of characters, items or properties."""

MAX_LINKS = 500
"""References of a schema: the compiler follows them one inside the other."""

MAX_MULTIPLE = 100_000
"""The least common multiple of what a schema's numbers must be multiples of."""

LAYOUT = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False, "lenient": False}
"""JSON without white space between its parts, of which a model could write for ever."""

_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SINGLE = frozenset({"additionalProperties", "additionalItems"})
_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_VALUES = frozenset(
    {"type", "enum", "const", "required", "pattern", "format", "$ref", "$schema"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
_NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
    | {"discriminator"}  # which alternative a value is: oneOf holds it to one all the same
)
KEYWORDS = _LISTS | _SINGLE | _NAMED | _COUNTS | _VALUES | _NOTES | {"items"}
"""Keywords of JSON Schema that are enforced, or that only tell a reader something."""

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29)"
)
_HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR})"

_UUIDS = {
    f"uuid{version}": f"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"
    for version in (1, 3, 4, 5, 6, 7, 8)
}

EXACT = {"date": _DATE, "time": _TIME, "date-time": f"{_DATE}T{_TIME}", **_UUIDS}
"""Formats that are spelled out as patterns: only dates that exist, no leap seconds, upper-case T and Z."""

FORMATS = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", *EXACT})
"""Formats that are enforced."""

FREE = frozenset({"binary", "password", "path"})
"""Formats that say what a text is for, and that every text has."""


def schema_text(schema: object, parameter: str = "response_format", *, within: bool = False) -> str:
    """A JSON schema as compact JSON, its keywords checked, for the grammar compiler.

    within: it is a part of a larger grammar, where an object may not name some keys and leave others open.
    Raises InvalidRequestError, or UnsupportedParameterError of `parameter` for what cannot be enforced.
    """
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(f"a JSON schema must be an object, not {schema!r:.80}")
    _check_depth(schema)
    try:
        text = json.dumps(schema, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the JSON schema is not JSON: {error}") from None
    check_size("the JSON schema", len(text), MAX_SCHEMA)
    if text.count('"$ref"') > MAX_LINKS:
        raise InvalidRequestError(f"the JSON schema has more than {MAX_LINKS} references")
    try:
        return _Walk(within).checked(json.loads(text))
    except _RefusedError as refused:
        hint = f"leave {refused.keyword} out of the schema, and check the answer for it afterwards"
        raise UnsupportedParameterError(parameter, str(refused), hint=refused.hint or hint) from None


class _RefusedError(Exception):
    def __init__(self, where: str, keyword: str, problem: str, hint: str | None = None) -> None:
        super().__init__(f"the JSON schema at {where}: {problem}")
        self.keyword = keyword
        self.hint = hint


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


class _Walk:
    """One schema: what is found on the way through it."""

    def __init__(self, within: bool) -> None:
        self._within = within
        self._places: set[str] = set()
        self._references: list[tuple[str, str]] = []
        self._multiples: list[int] = []

    def checked(self, schema: dict[str, Any]) -> str:
        self._schema(schema, "#")
        for where, reference in self._references:
            if unquote(reference).rstrip("/") not in self._places:
                raise InvalidRequestError(f"the JSON schema at {where}: {reference!r:.80} is no schema in it")
        if math.lcm(*self._multiples) > MAX_MULTIPLE:
            raise _RefusedError("#", "multipleOf", "the values of multipleOf cannot be enforced together")
        return json.dumps(schema, separators=(",", ":"), ensure_ascii=True)

    def _schema(self, schema: object, where: str) -> None:
        self._places.add(where)
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"the JSON schema at {where} must be an object, not {schema!r:.80}")
        for key in schema:
            if key not in KEYWORDS:
                raise _RefusedError(where, key, f"the keyword {key!r:.80} cannot be enforced")
        for place, inner in _inner(schema, where):
            self._schema(inner, place)
        self._numbers(schema, where)
        self._objects(schema, where)
        self._text(schema, where)
        reference = schema.get("$ref", "#")
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _RefusedError(where, "$ref", f"the reference {reference!r:.80} leads out of the schema")
        if reference.strip("#") and not reference.startswith("#/"):
            problem = f"the reference {reference!r:.80} is not a path from the root"
            raise _RefusedError(where, "$ref", problem)
        self._references.append((where, reference))

    def _objects(self, schema: dict[str, Any], where: str) -> None:
        # A grammar cannot keep two properties from having the same name, and a reader then sees only one.
        required = _as(list, schema.get("required", []), f"{where}/required")
        if schema.get("minProperties", 0) > max(1, len(set(map(str, required)))):
            problem = "minProperties beyond the required ones cannot be enforced"
            raise _RefusedError(where, "minProperties", problem)
        named = schema.get("properties") or schema.get("patternProperties")
        if self._within and named and schema.get("additionalProperties") is not False:
            # A key could be spelled with escapes, and then pass for another one.
            problem = "keys beside those that are named cannot be enforced here"
            hint = "set additionalProperties to false"
            raise _RefusedError(where, "properties", problem, hint)

    def _numbers(self, schema: dict[str, Any], where: str) -> None:
        for key in _COUNTS & schema.keys():
            _check_count(f"{where}/{key}", schema[key], key)
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            value = schema.get(key, 1)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise InvalidRequestError(f"the JSON schema at {where}/{key}: {value!r:.80} is no number")
        if "multipleOf" in schema:
            multiple = f"{schema['multipleOf']!r}".replace(".", "")
            if not multiple.isdigit():
                problem = f"multiples of {schema['multipleOf']!r:.80} cannot be enforced"
                raise _RefusedError(where, "multipleOf", problem)
            self._multiples.append(max(1, int(multiple[:12])))

    def _text(self, schema: dict[str, Any], where: str) -> None:
        if "pattern" in schema:
            schema["pattern"] = _pattern(schema["pattern"], "pattern", where)
        if "patternProperties" in schema:
            named = schema["patternProperties"].items()
            patterns = {_pattern(key, "patternProperties", where): inner for key, inner in named}
            if len(patterns) < len(named):
                raise _RefusedError(where, "patternProperties", "two patterns are the same")
            schema["patternProperties"] = patterns
        if "format" not in schema:
            return
        name = schema["format"]
        if not isinstance(name, str) or name not in FORMATS | FREE:
            problem = f"the format {name!r:.80} cannot be enforced"
            hint = f"leave it out, or use one of {', '.join(sorted(FORMATS | FREE))}"
            raise _RefusedError(where, "format", problem, hint)
        if name in FREE:
            del schema["format"]
        if name in EXACT:
            del schema["format"]
            schema.setdefault("allOf", []).append({"pattern": f"^{EXACT[name]}$"})


def _inner(schema: dict[str, Any], where: str) -> Iterator[tuple[str, object]]:
    """The schemas right inside one, with their places as references name them."""
    for key, value in list(schema.items()):
        place = f"{where}/{key}"
        if key in _SINGLE or (key == "items" and not isinstance(value, list)):
            yield place, value
        elif key in _LISTS or key == "items":
            for i, item in enumerate(_as(list, value, place)):
                yield f"{place}/{i}", item
        elif key in _NAMED:
            for name, item in _as(dict, value, place).items():
                yield f"{place}/{name.replace('~', '~0').replace('/', '~1')}", item


def _pattern(pattern: object, keyword: str, where: str) -> str:
    text: str = _as(str, pattern, f"{where}/{keyword}")
    name = f"the pattern {text!r:.80} at {where}"
    check_size(name, len(text.encode()), MAX_PATTERN)
    check_expression(name, text, MAX_REPEATED)
    try:
        return enforced(text)
    except ValueError as error:
        problem = f"the pattern {text!r:.80} cannot be enforced: {error}"
        raise _RefusedError(where, keyword, problem) from None


def _check_count(place: str, value: object, keyword: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"the JSON schema at {place}: {value!r:.80} is not a whole number from 0")
    if value > MAX_COUNT:
        raise _RefusedError(place, keyword, f"{value} is too many, at most {MAX_COUNT}")


def _as(kind: type, value: object, place: str) -> Any:
    if not isinstance(value, kind):
        names: dict[type, str] = {list: "a list", dict: "an object", str: "text"}
        wanted = names[kind]
        raise InvalidRequestError(f"the JSON schema at {place}: must be {wanted}, not {value!r:.80}")
    return value
