"""A model's answers to many questions at once, through the engine: after examples, or as it was tuned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gemlet

Messages = Sequence[dict[str, str]]

TOGETHER = 8
"""Questions in flight: the engine reads them in one batch."""


@dataclass(frozen=True)
class Answer:
    """`stopped`: the model ended it itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Frame:
    """How examples are written for a model without a chat format. `stop` ends its answer."""

    task: str
    question: str
    answer: str
    stop: tuple[str, ...]

    def prompt(self, shots: Sequence[Messages], question: str) -> str:
        parts = [self.task]
        parts += [f"{self.question}{one[-2]['content']}\n{self.answer}{one[-1]['content']}" for one in shots]
        return "\n\n".join([*parts, f"{self.question}{question}\n{self.answer.rstrip(' ')}"])


def ask(
    model: gemlet.Model,
    questions: Sequence[Messages],
    shots: Sequence[Sequence[Messages]],
    frame: Frame,
    max_tokens: int,
) -> list[Answer]:
    """The greedy answer to each conversation, `shots[i]` shown before the i-th.

    Chat models see shots as earlier turns; a model without a chat format continues `frame`, if there are any.
    """
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0}

    def one(index: int) -> Answer:
        messages, before = questions[index], shots[index]
        if before and not model.has_chat_format:
            prompt = frame.prompt(before, messages[-1]["content"])
            done = model.generate(prompt, stop=frame.stop, **options)
            return Answer(done.text.strip(), done.finish_reason == "stop")
        head = [{"role": "system", "content": frame.task}] if before and frame.task else []
        turns = [turn for shot in before for turn in shot]
        done = model.chat([*head, *turns, *messages], **options)
        return Answer(done.text.strip(), done.finish_reason == "stop")

    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(one, range(len(questions))))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def nearest(question: str, known: Sequence[Messages], count: int) -> list[Messages]:
    """The known conversations whose questions share most words with this one, the nearest last."""
    asked = words(question)

    def likeness(other: Messages) -> float:
        theirs = words(other[-2]["content"])
        return len(asked & theirs) / (len(asked | theirs) or 1)

    return sorted(known, key=likeness)[-count:] if count else []
