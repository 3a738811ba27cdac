"""Which model a name means, and what of a path is shown."""

from __future__ import annotations

import pytest

from gemlet.errors import InvalidRequestError
from gemlet.serve.errors import ApiError
from gemlet.serve.registry import Registry, public_name
from tests.infer.fake_model import fake_model


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("gemma-3-1b-it", "gemma-3-1b-it"),
        ("org/repo:q4@main", "org/repo:q4@main"),
        ("/srv/models/270m.gguf", "270m"),
        ("~/models/folder/", "folder"),
        ("x.gguf+/srv/support", "x+support"),
    ],
)
def test_the_public_name_tells_no_place(reference: str, name: str) -> None:
    assert public_name(reference) == name


def test_names_that_are_served_hosted_and_neither() -> None:
    with fake_model(reference="one") as one, fake_model(reference="two") as two:
        registry = Registry([one, two])
        assert registry.find("two").model is two
        for hosted in ("gpt-4o", "o3", "o3-mini", "claude-x", "text-embedding-3-small", None):
            assert registry.find(hosted).model is one
        for other in ("o30", "three", "", "my-gpt-4", "x" * 5000):
            with pytest.raises(ApiError, match="served: one, two"):
                registry.find(other)
    with pytest.raises(InvalidRequestError):
        Registry([])
