"""A model before training and after it, asked the same through gemlet's engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.evaluate.choices import Question
from gemlet.evaluate.quality import Float32
from gemlet.infer.chat import Model
from gemlet.text.tools import Tool
from gemlet.tune.data import Prompt
from gemlet.tune.examples import Example

READ_ROWS = 128
"""Rows of logits asked for at a time: 128 MiB with 262,144 tokens."""
_COMPARED_ROWS = 32
"""Of them compared at a time, which takes several copies."""

MOST_TOKENS = 256
"""Of an answer that is scored."""


@dataclass(frozen=True)
class Side:
    """An open model, and the adapter that it answers with: its name, or "base" for none."""

    model: Model
    adapter: str | None = None

    def logits(self, ids: Sequence[int], first: int) -> Iterator[Float32]:
        """As `evaluate.quality` takes them."""
        for start in range(first, len(ids), READ_ROWS):
            stop = min(start + READ_ROWS, len(ids))
            rows = self.model.logits(ids[:stop], range(start, stop), adapter=self.adapter)
            for at in range(0, len(rows), _COMPARED_ROWS):
                yield rows[at : at + _COMPARED_ROWS]

    def learned_logprobs(self, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
        """The log-probabilities of each example's learned tokens."""
        starts = [int(example.learned.argmax()) for example in examples]
        pairs = [(e.ids[:at].tolist(), e.ids[at:].tolist()) for e, at in zip(examples, starts, strict=True)]
        scores = self.model.score_many(pairs, adapter=self.adapter)
        return [
            np.array(score.token_logprobs, np.float64)[example.learned[at:]]
            for score, example, at in zip(scores, examples, starts, strict=True)
        ]

    def right_choices(self, questions: Sequence[Question]) -> list[bool]:
        """Whether the right choice is each question's likeliest, as `evaluate.choices` asks it."""
        pairs = [(question.prompt, " " + choice) for question in questions for choice in question.choices]
        scores = iter(self.model.score_many(pairs, adapter=self.adapter))
        right = []
        for question in questions:
            own = [next(scores).logprob for _ in question.choices]
            right.append(own.index(max(own)) == question.answer)
        return right

    def manifest(self) -> dict[str, Any]:
        """Which weights these are, and how they are computed."""
        manifest = self.model.manifest
        adapter = self.model.adapters.get(self.adapter or "")
        sha256 = adapter.sha256 if adapter else None
        return {
            "model": manifest.model,
            "weights_sha256": manifest.weights_sha256,
            "weights_type": manifest.weights_type,
            "adapter_sha256": manifest.adapter_sha256 if self.adapter is None else sha256,
            "tokenizer_sha256": manifest.tokenizer_sha256,
            "instruction_set": manifest.instruction_set,
            "engine_version": manifest.engine_version,
        }


@dataclass(frozen=True)
class Task:
    """A prompt as ids, what it says, and the answer that the data gives to it."""

    ids: tuple[int, ...]
    text: str
    answer: str
    source: str
    max_tokens: int


def task_of(model: Model, prompt: Prompt) -> Task:
    """The prompt as this model reads it. An answer may be twice as long as the one that it is held to."""
    room = min(MOST_TOKENS, 2 * len(model.tokenize(prompt.answer, bos=False)) + 16)
    if prompt.messages is not None:
        functions = [{"type": "function", "function": _function(tool)} for tool in prompt.tools]
        ids = model.render(prompt.messages, tools=functions or None)
        text = "\n\n".join(f"{m.get('role', '')}: {_shown(m.get('content'))}" for m in prompt.messages)
    else:
        text = prompt.text or ""
        ids = model.tokenize(text.rstrip()) or [model.config.bos_id]
    return Task(tuple(ids), text, prompt.answer, prompt.source, room)


def _function(tool: Tool) -> dict[str, Any]:
    """As a request declares it."""
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, "parameters": dict(tool.parameters)} | described


def _shown(content: object) -> str:
    return content if isinstance(content, str) else str(content)


def answers(sides: Sequence[Side], tasks: Sequence[Task], stop: Callable[[], bool]) -> list[list[str]] | None:
    """The greedy answers of each side to all tasks, computed together; None when stopped."""
    with ExitStack() as running:
        streams = [
            [
                running.enter_context(
                    side.model.generate(
                        task.ids,
                        max_tokens=task.max_tokens,
                        temperature=0.0,
                        adapter=side.adapter,
                        cache=False,
                        stream=True,
                    )
                )
                for task in tasks
            ]
            for side in sides
        ]
        for side_streams in streams:
            for events in side_streams:
                for _ in events:
                    if stop():
                        return None
        return [[events.completions[0].text for events in side_streams] for side_streams in streams]


@dataclass
class Budget:
    """Time that is dealt to stages; what one leaves over the later ones have too.

    shares: of the stages that are still to come, in order. stop: asked between rounds.
    """

    seconds: float
    shares: dict[str, float]
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    stopped: bool = False
    began: float = field(init=False)
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self._until = self.clock()

    @property
    def used(self) -> float:
        return self.clock() - self.began

    def stage(self, name: str) -> None:
        """Begin a stage."""
        now = self.clock()
        left = max(0.0, self.began + self.seconds - now)
        self._until = now + left * self.shares[name] / sum(self.shares.values())
        del self.shares[name]

    def rounds(self, order: Sequence[int], size: int) -> Iterator[list[int]]:
        """Some of the stage's items at a time: the first ones always, more while another round fits."""
        longest = 0.0
        for start in range(0, len(order), size):
            began = self.clock()
            if start and began + longest > self._until:
                return
            if self.is_stopped():
                return
            yield list(order[start : start + size])
            longest = max(longest, self.clock() - began)

    def is_stopped(self) -> bool:
        """Whether the whole was stopped, now or before."""
        self.stopped = self.stopped or self.stop()
        return self.stopped
