"""Multiple choice for two models: which share of questions each has right, and whether that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemlet.errors import InvalidRequestError
from gemlet.evaluate.quality import Logits, log_probability
from gemlet.formats.files import parse_json
from gemlet.infer.scoring import score_request
from gemlet.statistics.intervals import Interval, bootstrap, wilson
from gemlet.statistics.paired import McNemar, mcnemar
from gemlet.text.tokenizer import Tokenizer

QUESTIONS = Path(__file__).with_name("questions.jsonl")
"""Forty easy questions of four choices: what a small model knows, and loses first."""

_FIELDS = {"prompt", "choices", "answer", "id", "category"}


@dataclass(frozen=True)
class Question:
    """`answer` is the index of the right choice."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Points:
    """Shares of right answers, 0 to 1; `difference` is the model's less the source's, paired."""

    questions: int
    model: Interval
    source: Interval
    difference: Interval
    test: McNemar


def read_questions(path: Path = QUESTIONS) -> list[Question]:
    """Questions as JSONL: `prompt`, `choices`, and `answer`, an index or the choice itself.

    Raises ModelFileError for a line that is not JSON, InvalidRequestError for one that is no question.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            found.append(_question(parse_json(path, f"line {number}", line), f"{path}: line {number}"))
    if not found:
        raise InvalidRequestError(f"{path}: holds no questions")
    return found


def _question(item: dict[str, object], where: str) -> Question:
    if unknown := sorted(item.keys() - _FIELDS):
        raise InvalidRequestError(f"{where}: {unknown[0]!r} is not a field of a question")
    prompt, choices, answer = (item.get(name) for name in ("prompt", "choices", "answer"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidRequestError(f"{where}: prompt must be text")
    texts = choices if isinstance(choices, list) else []
    if len(texts) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in texts):
        raise InvalidRequestError(f"{where}: choices must be at least two texts")
    if isinstance(answer, str) and answer in texts:
        answer = texts.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(texts):
        raise InvalidRequestError(f"{where}: answer must be one of the choices, or its index from 0")
    return Question(prompt, tuple(texts), answer)


def answers(
    logits: Logits,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    progress: Callable[[int, int], None] | None = None,
) -> list[bool]:
    """Whether each question is answered right: its choice is the likeliest continuation of the prompt."""
    right = []
    for number, question in enumerate(questions, 1):
        scores = [_score(logits, tokenizer, question.prompt, choice) for choice in question.choices]
        right.append(scores.index(max(scores)) == question.answer)
        if progress is not None:
            progress(number, len(questions))
    return right


def _score(logits: Logits, tokenizer: Tokenizer, prompt: str, choice: str) -> float:
    """The log-probability of a space and the choice behind the prompt."""
    request = score_request(tokenizer, prompt, " " + choice)
    assert request.score_from is not None
    return log_probability(logits, request.ids, request.score_from)


def points(source: Sequence[bool], model: Sequence[bool]) -> Points:
    """Both sides' answers to the same questions, together."""
    pairs = [np.array([float(m) - float(s)]) for s, m in zip(source, model, strict=True)]
    return Points(
        questions=len(source),
        model=wilson(sum(model), len(model)),
        source=wilson(sum(source), len(source)),
        difference=bootstrap(pairs, lambda x: float(x.mean())),
        test=mcnemar(source, model),
    )
