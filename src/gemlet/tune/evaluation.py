"""What training gained in its domain and lost outside it: the model before and after, through the engine.

Held-out examples give loss and answers, a fixed general set of the package distributions and choices. Each
stage takes its items in an order drawn from the seed, and as many as its share of the time allows.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError
from gemlet.evaluate.choices import QUESTIONS, points, read_questions
from gemlet.evaluate.quality import as_json, check_same_vocabulary, paired_rows, summary
from gemlet.evaluate.texts import HELD_OUT, read_documents
from gemlet.formats.files import file_sha256, replaced_file
from gemlet.statistics.intervals import Interval, bootstrap
from gemlet.statistics.paired import sign_flip
from gemlet.tune.data import Prompt
from gemlet.tune.examples import Example, Pair
from gemlet.tune.moved import Moved
from gemlet.tune.report_values import finite
from gemlet.tune.sides import Budget, Side, Task, answers, task_of
from gemlet.tune.verdict import verdict
from gemlet.types import as_dict

EVALUATION = "evaluation.json"
FORMAT = 1

BUDGET_S = 120.0
"""Enough for about a hundred examples with a 270M model on two cores."""
_SHARES = {"answers": 0.35, "loss": 0.25, "text": 0.25, "questions": 0.15}

SAMPLES = 8
"""Answers shown side by side."""
PROMPTS = 200
"""Answers scored at most."""
GENERAL_TOKENS = 256
"""Of each general document."""

Progress = Callable[[str, int, int], None]
"""Called with what is measured, and items done and in all."""


@dataclass(frozen=True)
class HeldOut:
    """What was not trained on. split: what it is called, test or valid."""

    items: Sequence[Example | Pair]
    prompts: Sequence[Prompt] = ()
    split: str = "test"


@dataclass(frozen=True)
class Options:
    """budget_s: seconds for everything, about. seed: of the order in which items are taken. stop: asked now
    and then; once it says true, what was measured so far is kept. Ctrl-C does the same."""

    budget_s: float = BUDGET_S
    seed: int = 0
    prompts: int = PROMPTS
    progress: Progress = lambda what, done, total: None
    stop: Callable[[], bool] = lambda: False


def evaluate(
    before: Side, after: Side, held_out: HeldOut, moved: Sequence[Moved] = (), options: Options | None = None
) -> dict[str, Any]:
    """Measure both sides and judge: a JSON-ready document; None stands for what was not measured.

    The sides may be one open model with and without an adapter, or two models. InvalidRequestError where
    their vocabularies differ.
    """
    options = options or Options()
    models = before.model, after.model
    check_same_vocabulary(
        models[0].reference,
        models[1].reference,
        (models[0].config.vocab_size, models[1].config.vocab_size),
        (models[0].manifest.tokenizer_sha256, models[1].manifest.tokenizer_sha256),
    )
    work = _Work(before, after, held_out, options)
    work.run()
    document: dict[str, Any] = {
        "gemlet_evaluation": FORMAT,
        "before": before.manifest(),
        "after": after.manifest(),
        "split": held_out.split,
        "seed": options.seed,
        "budget_seconds": options.budget_s,
        "seconds": work.budget.used,
        "interrupted": work.budget.stopped,
        **work.found,
        "moved": [as_dict(item) for item in moved],
    }
    document = finite(document)
    document["verdict"] = as_dict(verdict(document))
    return document


def write_evaluation(document: dict[str, Any], folder: Path) -> Path:
    """Write what `evaluate` found into a run's folder; where. OSError where it cannot be."""
    path = folder / EVALUATION
    with replaced_file(path) as file:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        file.write(text.encode("utf-8", "backslashreplace"))  # half a surrogate pair is written as an escape
    return path


def same_answer(answer: str, expected: str) -> tuple[bool, bool]:
    """Whether two answers are equal but for space around them, and whether they are when normalised:
    as JSON values where both are JSON, else in NFKC, caseless, with single spaces, without a last full stop.
    """
    exact = answer.strip() == expected.strip()
    return exact, exact or _normalised(answer) == _normalised(expected)


def _normalised(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        folded = unicodedata.normalize("NFKC", text).casefold()
        return re.sub(r"\s+", " ", folded).strip().removesuffix(".")


@dataclass
class _Work:
    """The stages, and what they found."""

    before: Side
    after: Side
    held_out: HeldOut
    options: Options
    budget: Budget = field(init=False)
    found: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        empty = ("loss", "answers", "preferences", "text", "questions")
        self.found = {**dict.fromkeys(empty), "samples": []}

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.before, self.after

    @property
    def context(self) -> int:
        return min(side.model.context for side in self.sides)

    def run(self) -> None:
        shares = {name: share for name, share in _SHARES.items() if self._has(name)}
        self.budget = Budget(self.options.budget_s, shares, self.options.stop)
        stages = {"answers": self._answers, "loss": self._loss, "text": self._text}
        try:
            for name, stage in {**stages, "questions": self._questions}.items():
                if self._has(name) and not self.budget.is_stopped():
                    self.budget.stage(name)
                    stage()
        except KeyboardInterrupt:
            self.budget.stopped = True

    def _has(self, stage: str) -> bool:
        if stage == "answers":
            return bool(self.held_out.prompts)
        return bool(self.held_out.items) or stage != "loss"

    def _order(self, count: int) -> list[int]:
        return [int(number) for number in np.random.default_rng(self.options.seed).permutation(count)]

    def _told(self, what: str, done: int, total: int) -> None:
        self.options.progress(what, done, total)

    # --- In the domain

    def _loss(self) -> None:
        fitting = [item for item in self.held_out.items if _longest(item) <= self.context]
        rows: list[NDArray[np.float64]] = []
        preferred: list[tuple[bool, bool]] = []
        used = 0
        for numbers in self.budget.rounds(self._order(len(fitting)), 16):
            items = [fitting[number] for number in numbers]
            chosen = [item.chosen if isinstance(item, Pair) else item for item in items]
            logprobs = [side.learned_logprobs(chosen) for side in self.sides]
            rows += [
                np.array([[first.sum(), second.sum(), len(first)]])
                for first, second in zip(*logprobs, strict=True)
                if len(first)
            ]
            preferred += self._preferences(items, logprobs)
            used += len(items)
            self._told("loss on held-out examples", used, len(fitting))
        left_out = len(self.held_out.items) - len(fitting)
        if rows:
            self.found["loss"] = _losses(rows) | {"of": len(self.held_out.items), "left_out": left_out}
        if preferred:
            self.found["preferences"] = _share(preferred, len(self.held_out.items))

    def _preferences(
        self, items: Sequence[Example | Pair], chosen: Sequence[Sequence[NDArray[np.float64]]]
    ) -> list[tuple[bool, bool]]:
        """Whether the chosen answer is likelier than the rejected one, on each side."""
        places = [number for number, item in enumerate(items) if isinstance(item, Pair)]
        rejected = [item.rejected for item in items if isinstance(item, Pair)]
        if not rejected:
            return []
        sides = [
            [bool(own[place].sum() > other.sum()) for place, other in zip(places, others, strict=True)]
            for own, others in zip(chosen, (s.learned_logprobs(rejected) for s in self.sides), strict=True)
        ]
        return list(zip(*sides, strict=True))

    def _answers(self) -> None:
        order = self._order(len(self.held_out.prompts))[: self.options.prompts]
        exact: list[tuple[bool, bool]] = []
        normalised: list[tuple[bool, bool]] = []
        left_out = 0
        for numbers in self.budget.rounds(order, SAMPLES):
            tasks = [task_of(self.after.model, self.held_out.prompts[number]) for number in numbers]
            fitting = [task for task in tasks if len(task.ids) + task.max_tokens <= self.context]
            left_out += len(tasks) - len(fitting)
            given = answers(self.sides, fitting, self.budget.is_stopped)
            if given is None:
                break
            for task, *texts in zip(fitting, *given, strict=True):
                results = [same_answer(text, task.answer) for text in texts]
                exact.append((results[0][0], results[1][0]))
                normalised.append((results[0][1], results[1][1]))
                self._keep_sample(task, texts, results)
            self._told("answers to held-out prompts", len(exact) + left_out, len(order))
        if exact:
            of = len(self.held_out.prompts)
            self.found["answers"] = {
                "exact": _share(exact, of),
                "normalised": _share(normalised, of),
                "left_out": left_out,
            }

    def _keep_sample(self, task: Task, texts: Sequence[str], results: Sequence[tuple[bool, bool]]) -> None:
        if len(self.found["samples"]) < SAMPLES:
            sample = {"source": task.source, "prompt": task.text, "reference": task.answer}
            sample |= {"before": texts[0], "after": texts[1]}
            right = {"before_right": results[0][1], "after_right": results[1][1]}
            self.found["samples"].append(sample | right)

    # --- Outside of it

    def _text(self) -> None:
        documents = read_documents(HELD_OUT, self.after.model.tokenizer, 1 << 20)
        limit = min(GENERAL_TOKENS, self.context)
        texts = [list(ids[:limit]) for ids in documents.ids]
        measured = []
        for numbers in self.budget.rounds(self._order(len(texts)), 1):
            parts = paired_rows(self.before.logits, self.after.logits, texts[numbers[0]])
            measured.append(np.concatenate(list(parts)))
            self._told("distributions on general text", len(measured), len(texts))
        if measured:
            self.found["text"] = {
                "name": documents.name,
                "sha256": documents.sha256,
                "n": len(measured),
                "of": len(texts),
                **as_json(summary(measured)),
            }

    def _questions(self) -> None:
        questions = read_questions()
        right: list[tuple[bool, bool]] = []
        for numbers in self.budget.rounds(self._order(len(questions)), 8):
            asked = [questions[number] for number in numbers]
            right += zip(*(side.right_choices(asked) for side in self.sides), strict=True)
            self._told("general questions", len(right), len(questions))
        if right:
            head = {"name": QUESTIONS.name, "sha256": file_sha256(QUESTIONS)}
            self.found["questions"] = head | _share(right, len(questions))


def _longest(item: Example | Pair) -> int:
    return max(len(e.ids) for e in ((item.chosen, item.rejected) if isinstance(item, Pair) else (item,)))


def _losses(rows: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Of rows of both sides' log-probabilities and the number of tokens, one of each example: mean losses a
    token in nats, their difference (after less before), and whether examples differ by chance."""

    def mean(weights: tuple[int, int]) -> Interval:
        return bootstrap(rows, lambda x: float((x[:, :2] @ weights).sum() / x[:, 2].sum()))

    before, after = mean((-1, 0)), mean((0, -1))
    return {
        "n": len(rows),
        "tokens": int(sum(row[0, 2] for row in rows)),
        "before": as_dict(before),
        "after": as_dict(after),
        "difference": as_dict(mean((1, -1))),
        "perplexity_before": as_dict(before.map(_exp)),
        "perplexity_after": as_dict(after.map(_exp)),
        "p": sign_flip([row[0, 0] - row[0, 1] for row in rows]),
    }


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def _share(right: Sequence[tuple[bool, bool]], of: int) -> dict[str, Any]:
    """Shares of the items that each side has right, and their difference (after less before)."""
    if not right:
        raise InvalidRequestError("there is nothing to take a share of")
    found = points(*zip(*right, strict=True))
    return {
        "n": len(right),
        "of": of,
        "before": as_dict(found.source),
        "after": as_dict(found.model),
        "difference": as_dict(found.difference),
        "only_before": found.test.only_first,
        "only_after": found.test.only_second,
        "p": found.test.p,
    }
