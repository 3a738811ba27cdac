"""Answers held to a shape, on the fake decoder: whatever it prefers, the shape is kept."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from gemlet.errors import InvalidRequestError, MissingExtraError, UnsupportedParameterError
from tests.infer.fake_model import fake_model

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def asked(schema: object) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"repetition_penalty": 1.3}, {"top_k": 0}])
def test_every_complete_answer_validates(options: dict) -> None:
    with fake_model() as model:
        for done in model.generate("x", response_format=asked(SCHEMA), n=8, seed=1, **options):
            assert done.finish_reason == "stop" and done.stop_reason is None
            jsonschema.validate(json.loads(done.text), SCHEMA)
        for done in model.chat(
            [{"role": "user", "content": "x"}], response_format={"type": "json_object"}, n=4, max_tokens=60
        ):
            if done.finish_reason == "stop":
                assert isinstance(json.loads(done.text), dict)


def test_an_answer_that_is_not_complete_has_the_reason_length() -> None:
    with fake_model() as model:
        done = model.generate("x", response_format=asked(SCHEMA), max_tokens=3)
        assert done.finish_reason == "length" and done.text.startswith("{")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_regex_and_grammar(ignore_eos: bool) -> None:
    with fake_model() as model:
        done = model.generate("x", regex="[ab]{4}", ignore_eos=ignore_eos)
        assert re.fullmatch("[ab]{4}", done.text) and done.finish_reason == "stop"
        done = model.generate("x", grammar='start: "yes" | "no"', ignore_eos=ignore_eos)
        assert done.text in ("yes", "no") and done.finish_reason == "stop"


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://example.com/x"}, "example.com"),
        ({"properties": {"a": {"nullable": True}}}, "#/properties/a.*nullable"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-a"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multipleOf"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(schema: dict, named: str) -> None:
    with fake_model() as model, pytest.raises(UnsupportedParameterError, match=named):
        model.generate("x", response_format=asked(schema))


@pytest.mark.parametrize(
    "options",
    [
        {"regex": "a", "grammar": "b"},
        {"regex": ""},
        {"regex": "(a{1000}){1000}"},
        {"regex": "a{99999999}"},
        {"regex": "a\\"},
        {"regex": "(" * 100 + ")" * 100},
        {"grammar": "\n".join(f"a{i}: a{i + 1}" for i in range(5000))},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "text", "more": 1}},
        {"response_format": asked({"$ref": "#", "$defs": {str(i): {"$ref": "#"} for i in range(600)}})},
    ],
)
def test_wrong_and_hostile_shapes_are_refused(options: dict) -> None:
    with fake_model() as model, pytest.raises(InvalidRequestError):
        model.generate("x", **options)


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with fake_model() as model, pytest.raises(MissingExtraError, match="structured"):
        model.generate("x", regex="a")
