"""What a stream says while there is nothing to say yet, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from gemlet.errors import ContextLengthError
from gemlet.serve.events import EventStream, LineStream, NamedEventStream


def lines(
    events: AsyncIterator[dict[str, Any]], kind: type[EventStream] = EventStream, **options: Any
) -> list[str]:
    """What a client gets which stays, split where events end."""
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b"").decode())

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def work() -> None:
        await kind(events, **options)({"type": "http"}, receive, send)

    asyncio.run(work())
    return [line for line in "".join(sent).split("\n" if kind is LineStream else "\n\n") if line]


async def slowly() -> AsyncIterator[dict[str, Any]]:
    await asyncio.sleep(0.2)
    yield {"text": "é"}


def test_progress_and_then_signs_of_life() -> None:
    steps = iter([(0, 10), (6, 10)])
    told = lines(slowly(), progress=lambda: next(steps, (10, 10)), keep_alive=0.02)
    assert told[:2] == [": prefill 0/10", ": prefill 6/10"]
    assert set(told[2:-2]) == {": keep-alive"}
    assert told[-2:] == ['data: {"text": "é"}', "data: [DONE]"]


def test_an_error_in_the_middle_is_told() -> None:
    async def failing() -> AsyncIterator[dict[str, Any]]:
        yield {"text": "a"}
        raise ContextLengthError(20, 10)

    told = lines(failing())
    assert told[0] == 'data: {"text": "a"}' and "context_length_exceeded" in told[1]


def test_named_events() -> None:
    async def two() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "a.b", "x": 1}
        yield {"type": "c"}

    told = lines(two(), NamedEventStream)
    assert told == ['event: a.b\ndata: {"type": "a.b", "x": 1}', 'event: c\ndata: {"type": "c"}']


def test_lines_of_json_have_no_comments() -> None:
    told = lines(slowly(), LineStream, idle={"text": ""}, keep_alive=0.02)
    assert len(told) > 2 and set(told[:-1]) == {'{"text": ""}'} and told[-1] == '{"text": "é"}'

    async def failing() -> AsyncIterator[dict[str, Any]]:
        yield {"text": "a"}
        raise ContextLengthError(20, 10)

    last = json.loads(lines(failing(), LineStream, idle={})[-1])
    assert "20 tokens" in last["error"]
