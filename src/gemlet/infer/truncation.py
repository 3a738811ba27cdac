"""What is too long for the context, made shorter where that was asked for, and a line that says so."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemlet.text.template import Rendered
from gemlet.types import Message

ROOM = 256
"""Tokens kept for an answer that names no limit, though never more than a quarter of the context."""


def room_for_prompt(context: int, max_tokens: int | None) -> int:
    """Tokens that a prompt may have, so that an answer of `max_tokens` fits behind it."""
    return context - (min(ROOM, context // 4) if max_tokens is None else max_tokens)


def last_ids(ids: Sequence[int], room: int, bos_id: int) -> tuple[list[int], tuple[str, ...]]:
    """The last ids, behind the BOS if they had one, and a line that says so. All of them where they fit."""
    if len(ids) <= room:
        return list(ids), ()
    head = list(ids[:1]) if ids[0] == bos_id else []
    kept = room - len(head)
    if kept < 1:
        return list(ids), ()  # the answer alone is too long: that is an error of its own
    said = f"prompt: the first {len(ids) - room} tokens were left out, it is longer than the context"
    return head + list(ids[len(ids) - kept :]), (said,)


def last_messages(
    messages: Sequence[Message | Mapping[str, Any]],
    render: Callable[[Sequence[Message | Mapping[str, Any]]], Rendered],
    room: int,
) -> Rendered:
    """The conversation without its oldest exchanges, as few as make it fit.

    The system message stays, and what is kept of the rest begins with a user's message, at the latest the
    last one. Where that is still too long it is given as it is.
    """
    whole = render(messages)
    if len(whole.ids) <= room:
        return whole
    roles = [message.role if isinstance(message, Message) else message["role"] for message in messages]
    first = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), 0)
    starts = [i for i, role in enumerate(roles) if role == "user" and i > first]
    rendered: dict[int, Rendered] = {}

    def fits(start: int) -> bool:
        rendered[start] = render([*messages[:first], *messages[start:]])
        return len(rendered[start].ids) <= room

    start = starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)] if starts else first
    if start == first:
        return whole
    kept = rendered[start]
    left_out = f"messages[{first}] to messages[{start - 1}]"
    said = f"{left_out}: left out, the conversation is longer than the context"
    return replace(kept, normalisations=(said, *kept.normalisations))
