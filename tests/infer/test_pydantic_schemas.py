"""What pydantic writes for common types is kept, or refused with a word on what to do."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
import pytest

from gemlet.errors import UnsupportedParameterError
from gemlet.infer.chat import Model
from tests.infer.fake_model import fake_model
from tests.infer.schemas import check
from tests.infer.test_constrain_schemas import ENDS


class Colour(enum.Enum):
    red = "r"
    blue = "b"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    breed: Annotated[str, pydantic.Field(max_length=3)]


class Inner(pydantic.BaseModel):
    """Has a description."""

    x: int
    y: bool | None = None


class Tree(pydantic.BaseModel):
    value: bool
    children: Annotated[list[Tree], pydantic.Field(max_length=1)] = []


KEPT: list[Any] = [
    *(int | None, Colour, Inner, Inner | None, list[Inner], dict[str, int], dict[str, Any], dict, list, Any),
    *(Literal["a", 1, None], datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
    *(uuid.UUID, pydantic.UUID1, pydantic.UUID4, pydantic.UUID7, decimal.Decimal, pathlib.Path, bytes),
    *(pydantic.SecretStr, pydantic.PositiveInt, pydantic.conint(ge=-3, lt=9), pydantic.confloat(gt=0, lt=2)),
    *(pydantic.conint(multiple_of=5), pydantic.constr(min_length=1, max_length=4)),
    *(pydantic.constr(pattern=r"^[a-c]{2}\d$"), pydantic.conlist(int, min_length=1, max_length=2)),
    *(tuple[bool, Colour], Cat | Dog, Tree, ipaddress.IPv4Address, dict[int, bool]),
    Annotated[Cat | Dog, pydantic.Field(discriminator="kind", description="A pet")],
    Annotated[Inner, pydantic.Field(description="d", examples=[1], deprecated=True)],
]

REFUSED: dict[str, Any] = {
    "uniqueItems": set[int],
    "propertyNames": dict[Colour, int],
    "ipvanyaddress": pydantic.IPvAnyAddress,
    "contentMediaType": pydantic.Json,
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with fake_model() as model:
        yield model


def schema_of(type_: Any) -> dict[str, Any]:
    return pydantic.create_model("Form", value=(type_, ...)).model_json_schema()


@pytest.mark.parametrize("type_", KEPT, ids=range(len(KEPT)))
def test_kept(model: Model, type_: Any) -> None:
    schema = schema_of(type_)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answers = model.generate("x", response_format=wanted, n=6, seed=3, max_tokens=150, logit_bias=ENDS)
    done = [answer.text for answer in answers if answer.finish_reason == "stop"]
    assert done
    for text in done:
        check(text, schema)


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize("tool", [False, True])
def test_refused(model: Model, keyword: str, tool: bool) -> None:
    schema = schema_of(REFUSED[keyword])
    wanted: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    if tool:
        wanted = {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
    with pytest.raises(UnsupportedParameterError, match=f"#/properties/value: .*{keyword}") as caught:
        model.chat([{"role": "user", "content": "x"}], **wanted)
    assert "leave" in (caught.value.hint or "")
