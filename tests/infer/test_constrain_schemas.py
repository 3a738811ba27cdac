"""Whatever the schema and whatever the model prefers: an answer that ends by itself validates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from gemlet.errors import InvalidRequestError
from gemlet.infer.chat import Model
from gemlet.infer.speculate import AdaptiveSpeculator
from tests.infer.fake_model import fake_model, small_tokenizer
from tests.infer.schemas import SCHEMAS, check

ENDS = dict.fromkeys((small_tokenizer().encode(text)[-1] for text in ('"', "}", "]", "1")), 4.0)
"""Brings an answer of the fake model, which writes at random, to an end."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with fake_model(speculator=AdaptiveSpeculator()) as model:
        yield model


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS)
@example({"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}})
@example({"type": "string", "format": "date"})
def test_every_answer_that_stops_validates(model: Model, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        answers = model.generate(
            "x", response_format=wanted, n=4, seed=7, max_tokens=120, top_k=0, top_p=1.0, logit_bias=ENDS
        )
    except InvalidRequestError:
        return  # nothing satisfies it, or it is refused
    for answer in answers:
        if answer.finish_reason == "stop":
            check(answer.text, schema)
