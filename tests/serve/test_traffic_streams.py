"""Streams of all the APIs put together, and what answers have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlet.serve.traffic.answers import (
    Answer,
    Call,
    Choice,
    compare,
    first_difference,
    read_answer,
    similarity,
)
from gemlet.serve.traffic.streams import AnswerError, Body


def events(*items: Any, end: str = "data: [DONE]\r\n\r\n") -> bytes:
    return ("".join(f"data: {json.dumps(item)}\r\n\r\n" for item in items) + end).encode()


def together(data: bytes, content_type: str = "text/event-stream; charset=utf-8", size: int = 7) -> Body:
    """Read in small pieces: where they are cut must not matter."""
    body = Body(content_type)
    for start in range(0, len(data), size):
        body.feed(data[start : start + size])
    return body


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": "m", "usage": None, "choices": [choice]}


def call(index: int | None, **function: str) -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    return {"tool_calls": [place | {"function": function} | ({"id": "c"} if "name" in function else {})]}


@pytest.mark.parametrize("counted", [True, False])
def test_calls_in_pieces(counted: bool) -> None:
    first, second = (0, 1) if counted else (None, None)
    body = together(
        events(
            chunk(role="assistant", content=""),
            chunk(**call(first, name="add", arguments="")),
            chunk(**call(first, arguments='{"b": 1,')),
            chunk(**call(first, arguments='"a": 2}')),
            chunk(**call(second, name="stop", arguments="{}")),
            chunk(finish="tool_calls"),
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        )
    )
    answer = read_answer(200, body.result())
    assert body.whole and body.result()["object"] == "chat.completion"
    calls = (Call("add", '{"a": 2, "b": 1}'), Call("stop", "{}"))
    assert answer == Answer(200, (Choice("", "tool_calls", calls),), None, "m", 3, 4)


def test_a_response() -> None:
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "ab"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
    ]
    done = {
        "model": "m",
        "status": "completed",
        "output": output,
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    stream = events(
        {"type": "response.created", "response": {"status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.completed", "response": done},
        end="",
    )
    body = together(stream)
    assert body.whole and read_answer(200, body.result()) == read_answer(200, done)
    assert read_answer(200, done).choices == (Choice("ab", "completed", (Call("f", "{}"),)),)
    left = together(stream[: stream.index(b"response.completed") - 15])
    assert not left.whole and read_answer(200, left.result()).choices[0].text == "ab"


@pytest.mark.parametrize("chat", [True, False])
def test_lines_of_ollamas_api(chat: bool) -> None:
    def line(text: str, **more: Any) -> dict[str, Any]:
        part = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        return {"model": "m", "done": False} | part | more

    last = line("", done=True, done_reason="stop", prompt_eval_count=5, eval_count=2)
    data = "".join(json.dumps(one) + "\n" for one in (line("a"), line("b"), last)).encode()
    body = together(data, "application/x-ndjson")
    assert body.whole
    assert read_answer(200, body.result()) == Answer(200, (Choice("ab", "stop"),), None, "m", 5, 2)


def test_an_error_in_the_middle() -> None:
    body = together(
        events(chunk(content="a"), {"error": {"message": "no", "code": "c", "param": "p"}}, end="")
    )
    assert body.whole and str(read_answer(200, body.result()).refusal) == "c: p"


def test_without_an_end_it_is_not_whole() -> None:
    assert not together(events(chunk(content="a"), end="")).whole
    assert together(events(chunk(content="a", finish="stop"), end="")).whole  # each choice has said so


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": [1]}\n\n',
        b'data: {"choices": [{"index": "0"}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": 5}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"tool_calls": {"a": 1}}}]}\n\n',
        b'data: {"choices": NaN}\n\n',
        b"data: \xff\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_is_no_event_is_an_error(data: bytes) -> None:
    with pytest.raises(AnswerError):
        together(data, size=1 << 20)


NAMES = ["choices", "message", "delta", "content", "tool_calls", "function", "name", "index", "error"]
NAMES += ["output", "type", "usage", "response", "done", "text", "arguments", "logprobs", "model"]
TOP = ["choices", "error", "done", "type", "output", "message"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(TOP), json_values), max_size=4))
def test_any_json_is_read_or_refused(items: list[Any]) -> None:
    for item in items:
        try:
            answer = read_answer(200, item)
            assert compare(answer, answer).kinds == ()
        except AnswerError:
            pass
    try:
        body = together(events(*items), size=1000)
        read_answer(200, body.result())
    except AnswerError:
        pass


def test_where_two_texts_part() -> None:
    same = "x" * 1000
    assert first_difference(same + "a", same + "b") == ("…" + "x" * 24 + "a", "…" + "x" * 24 + "b")
    assert first_difference("ab", "abc") == ("ab", "abc")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", 1.0),
        ("one two three", "one two three", 1.0),
        ("one two three four", "one two five four", 0.75),
        ("a", "b", 0.0),
        ("a " * 3000 + "x", "a " * 3000 + "y", 6000 / 6002),
        ("", "a", 0.0),
    ],
)
def test_similarity(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == pytest.approx(expected)


def test_similarity_of_large_texts_is_bounded() -> None:
    assert 0 <= similarity("b " + "a c " * 500_000, "d " + "c a " * 500_000 + "e") < 1


def test_differences_by_name() -> None:
    old = Answer(200, (Choice("a", "stop", (Call("f", "1"),)),))
    assert compare(old, Answer(200, (Choice("b", "length", ()),))).kinds == (
        "text",
        "tool_calls",
        "finish_reason",
    )
    assert compare(old, Answer(200, old.choices * 2)).kinds == ("choices",)
    refused = read_answer(400, {"error": {"message": "no", "code": "c", "param": "seed"}})
    assert compare(old, refused).kinds == ("status",) and compare(refused, refused).kinds == ()
    other = read_answer(400, {"error": {"message": "no", "code": "c", "param": "stop"}})
    assert compare(refused, other).kinds == ("refusal",)
