"""JSON that readers differ in is refused, and what is plain JSON is read as it always is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlet.serve.body import MAX_DEPTH, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_json_is_read(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    assert parse(text) == value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "'a' comes twice"),
        (b'[{"x": {"a": 1, "a": 2}}]', "'a' comes twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "too large"),
        (b"9" * 5000, "digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'"\xff"', "UTF-8 at byte 1"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "levels"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "levels"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "levels"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"{'a': 1}", "property name"),
    ],
)
def test_what_is_not(body: bytes, told: str) -> None:
    with pytest.raises(json.JSONDecodeError, match=told):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b'"\\ud83d\\ude00"',
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"[]," * 1000 + b"[]]",
        b'{"a": {"a": 1}, "b": {"a": 1}}',
        b"[1e308, 1e-999, 123456789012345678901234567890]",
    ],
)
def test_what_is(body: bytes) -> None:
    assert parse(body) == json.loads(body)
