"""Random JSON schemas of what is enforced, and a validator as strict as what is claimed."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from decimal import Decimal, localcontext
from typing import Any
from urllib.parse import urlsplit

import jsonschema
from hypothesis import strategies as st

from gemlet.infer.json_schema import FORMATS

CHECKER = jsonschema.FormatChecker()
"""jsonschema's own checks where it has them without further packages, ours for the other formats."""

_DURATION = re.compile(r"P(\d+W|(?=[\dT])(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII)


def _moment(text: str) -> bool:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None


def _clock(text: str) -> bool:
    return datetime.time.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None


for name, check in {
    "date-time": _moment,
    "time": _clock,
    "duration": _DURATION.fullmatch,
    "hostname": re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*").fullmatch,
    "uri": lambda text: bool(urlsplit(text).scheme),
    **{f"uuid{n}": lambda text, n=n: uuid.UUID(text).version == n for n in (1, 3, 4, 5, 6, 7, 8)},
}.items():
    CHECKER.checks(name, ValueError)(lambda v, check=check: not isinstance(v, str) or bool(check(v)))

PATTERNS = (
    "^[a-c]+$",
    "ab|cd",
    "^x",
    "z$",
    r"^\d{2,4}$",
    "^(?:[A-Z]{2}-)?[0-9]+$",
    r"^[^\"\\]*$",
    r"^\S+@\S+$",
    r"^[^,\n]*,[^\x00-\x1f]?$",
)
KEYS = st.sampled_from(["a", "b", "name", "x/y", "~", 'q"', "é", "new\nline", "$ref", "format"])
SMALL = st.integers(-30, 30)


def bounded(kind: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Numbers with any of the bounds."""
    bounds = {key: value for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")}
    multiple = st.sampled_from([1, 2, 3, 5, 0.5, 0.25, 7])
    return st.fixed_dictionaries({"type": st.just(kind)}, optional={**bounds, "multipleOf": multiple})


def _strings() -> st.SearchStrategy[dict[str, Any]]:
    lengths = {"minLength": st.integers(0, 4), "maxLength": st.integers(0, 8)}
    patterns = st.sampled_from(PATTERNS)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("string")}, optional={**lengths, "pattern": patterns}),
        st.fixed_dictionaries(
            {"type": st.just("string"), "format": st.sampled_from(sorted(FORMATS))},
            optional={"maxLength": st.integers(8, 60)},
        ),
        st.fixed_dictionaries({}, optional={**lengths, "pattern": patterns}),
    )


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), SMALL, st.sampled_from([0.5, -2.25, 1.0]), st.text('ab/é\\"\n', max_size=4)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=3,
)
LEAVES = st.one_of(
    st.just({}),
    st.just(True),
    st.sampled_from(["null", "boolean", "integer", "number"]).map(lambda kind: {"type": kind}),
    bounded("integer", SMALL),
    bounded("integer", st.sampled_from([0.5, -2.5, 7.0])),
    bounded("number", SMALL | st.sampled_from([0.5, -2.25, 1.125])),
    _strings(),
    _strings(),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
    st.just({"type": ["string", "null"], "maxLength": 3}),
    st.sampled_from(["#/$defs/word", "#/$defs/list", "#/$defs/tree", "#/$defs/a~1b"]).map(
        lambda r: {"$ref": r}
    ),
    st.just({"$ref": "#/$defs/word", "maxLength": 2}),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(KEYS, inner, max_size=3))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    names = st.sampled_from([*properties, "other"])
    schema["required"] = draw(st.lists(names, unique=True, max_size=3))
    more = draw(st.sampled_from(["closed", "closed", "open", "typed", "pattern", "counted"]))
    if more == "closed":
        schema["additionalProperties"] = False
    if more == "typed":
        schema["additionalProperties"] = draw(inner)
    if more == "pattern":
        schema["patternProperties"] = {draw(st.sampled_from(["^n", "[0-9]$"])): draw(inner)}
    if more == "counted":
        schema = {"type": "object", "minProperties": 1, "maxProperties": draw(st.integers(1, 3))}
    return schema


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    counts = {"minItems": st.integers(0, 2), "maxItems": st.integers(0, 4)}
    return st.one_of(
        _objects(inner),
        _objects(inner),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional=counts),
        st.fixed_dictionaries(
            {"prefixItems": st.lists(inner, min_size=1, max_size=2)},
            optional={"items": inner | st.just(False), "type": st.just("array"), **counts},
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"oneOf": options}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"allOf": parts}),
        st.tuples(inner, inner).map(
            lambda two: {"anyOf": [two[0]], **(two[1] if two[1] is not True else {})}
        ),
    )


DEFINITIONS = {
    "word": {"type": "string", "pattern": "^[a-z]{1,5}$"},
    "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    "tree": {
        "type": "object",
        "properties": {
            "v": {"type": "integer"},
            "l": {"$ref": "#/$defs/tree"},
            "r": {"$ref": "#/$defs/tree"},
        },
        "required": ["v"],
        "additionalProperties": False,
    },
    "a/b": {"enum": ["only", 1, None]},
}

SCHEMAS = st.recursive(LEAVES, _nested, max_leaves=6).map(
    lambda schema: {**(schema if isinstance(schema, dict) else {}), "$defs": DEFINITIONS}
)
"""Most can be compiled; those that allow nothing, or that are refused, cannot."""


def exact(text: str) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_float=_number)


def _number(text: str) -> Decimal | float:
    exponent = text.lower().partition("e")[2]
    return float(text) if len(exponent) > 4 else Decimal(text)


def check(answer: str, schema: dict[str, Any]) -> None:
    """Raises unless the answer is JSON that validates, numbers taken exactly."""
    strict = exact(json.dumps(schema))
    with localcontext() as context:
        context.prec = 20_000  # to divide by what is a multiple, exponent and all
        jsonschema.Draft202012Validator(strict, format_checker=CHECKER).validate(exact(answer))
