"""Constraints on the real model and its vocabulary: kept, and the same answer with drafts and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import gemlet
from gemlet.errors import InvalidRequestError
from gemlet.infer.speculate import AdaptiveSpeculator
from tests.infer.schemas import SCHEMAS, check
from tests.parity.real import Real

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["rock", "jazz", "folk"]}, "maxItems": 3},
    },
    "required": ["name", "born", "tags"],
    "additionalProperties": False,
}


def asked(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.fixture(scope="module")
def models(real: Real) -> Iterator[tuple[gemlet.Model, gemlet.Model]]:
    with pytest.MonkeyPatch.context() as patch:
        # Nothing is known of the cost of guesses, so that every likely one is checked on every machine.
        patch.setattr(AdaptiveSpeculator, "measured", lambda *_: None)
        drafting, plain = (
            gemlet.load(real.path, draft=draft, context=512, threads=1) for draft in (True, False)
        )
        with drafting, plain:
            yield drafting, plain


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"response_format": asked(PERSON)},
        {"response_format": asked({"type": "array", "items": PERSON, "minItems": 2, "maxItems": 2})},
        {"regex": r"[A-Z][a-z]+( [A-Z][a-z]+){1,2}, \d{4}"},
    ],
)
def test_drafts_change_nothing(
    models: tuple[gemlet.Model, gemlet.Model], options: dict[str, Any], temperature: float
) -> None:
    asked = {"max_tokens": 120, "n": 2, "seed": 5, "temperature": temperature, "logprobs": 2, **options}
    drafted, plain = (model.generate("Alice Cooper:\n", **asked) for model in models)
    assert [(a.token_ids, a.logprobs, a.finish_reason) for a in drafted] == [
        (b.token_ids, b.logprobs, b.finish_reason) for b in plain
    ]
    del asked["logprobs"]  # the head is asked for the largest logits of allowed ids alone
    for model in models:
        assert [a.token_ids for a in model.generate("Alice Cooper:\n", **asked)] == [
            b.token_ids for b in plain
        ]
    if "response_format" in options:
        for done in drafted:
            assert done.finish_reason == "stop"
            check(done.text, options["response_format"]["json_schema"]["schema"])
        assert drafted[0].timings.draft_acceptance


def test_chat_of_a_base_model_in_a_form(models: tuple[gemlet.Model, gemlet.Model]) -> None:
    done = models[0].chat(
        [{"role": "user", "content": "Who was Alice Cooper?"}],
        response_format=asked(PERSON),
        temperature=0,
        max_tokens=120,
    )
    check(done.text, PERSON)
    assert json.loads(done.text).keys() == {"name", "born", "tags"}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS)
def test_random_schemas_are_kept(models: tuple[gemlet.Model, gemlet.Model], schema: dict[str, Any]) -> None:
    try:
        answers = models[0].generate("JSON: ", response_format=asked(schema), n=2, seed=1, max_tokens=40)
    except InvalidRequestError:
        return
    for done in answers:
        if done.finish_reason == "stop":
            check(done.text, schema)
