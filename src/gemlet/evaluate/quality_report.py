"""A written model beside its source, both computed in float32: what the weights alone lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gemlet.evaluate.choices import Points, Question, answers, points
from gemlet.evaluate.quality import Quality, as_json, check_same_vocabulary, compare, decoder_logits
from gemlet.evaluate.texts import Documents
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Loaded
from gemlet.statistics.intervals import Interval
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import as_dict

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class QualityReport:
    """Distributions on a text, and answers to questions."""

    text: str
    quality: Quality
    points: Points | None

    def document(self) -> dict[str, Any]:
        """A JSON-ready form."""
        found: dict[str, Any] = {"text": self.text, **as_json(self.quality)}
        if self.points is not None:
            found["choices"] = as_dict(self.points)
        return found

    def lines(self) -> list[tuple[str, str]]:
        """For a person: a name and a text each, intervals at 95 %."""
        found = self.quality
        change = found.perplexity_ratio.map(lambda ratio: 100 * (ratio - 1))
        rows = [
            ("text", f"{self.text}: {found.tokens} tokens, {len(found.documents)} documents"),
            ("KL", f"{_text(found.kl, '.4f')} nats; 99th percentile {_text(found.kl_p99, '.3f')}"),
            ("first choice", f"{_text(found.top1.map(lambda share: 100 * share), '.1f')} % the same"),
            (
                "perplexity",
                f"{found.perplexity.estimate:.2f}, source {found.perplexity_source.estimate:.2f}: "
                f"{_text(change, '+.1f')} %",
            ),
        ]
        if self.points is not None:
            right = self.points
            difference = right.difference.map(lambda share: 100 * share)
            rows.append(
                (
                    "choices",
                    f"{100 * right.model.estimate:.1f} % of {right.questions} questions right, source "
                    f"{100 * right.source.estimate:.1f} %: {_text(difference, '+.1f')} points "
                    f"(p = {right.test.p:.2g})",
                )
            )
        return rows


def _text(value: Interval, form: str) -> str:
    return f"{value.estimate:{form}} ({value.low:{form}} to {value.high:{form}})"


def measure(
    source: Loaded,
    model: Loaded,
    tokenizer: Tokenizer,
    documents: Documents,
    questions: Sequence[Question] = (),
    step: Step = lambda what, done, total: None,
) -> QualityReport:
    """Measure `model` against `source`. InvalidRequestError where their vocabularies differ."""
    check_same_vocabulary(
        source.facts.path,
        model.facts.path,
        (source.facts.config.vocab_size, model.facts.config.vocab_size),
        (source.facts.tokenizer.sha256, model.facts.tokenizer.sha256),
    )
    first, second = (
        Decoder(loaded.facts.config, loaded.weights, executor="reference") for loaded in (source, model)
    )
    try:
        ours, theirs = decoder_logits(first), decoder_logits(second)
        quality = compare(
            ours, theirs, documents.ids, lambda done, total: step("reading the text", done, total)
        )
        if not questions:
            return QualityReport(documents.name, quality, None)
        right = [
            answers(
                logits, tokenizer, questions, lambda done, total: step("answering questions", done, total)
            )
            for logits in (ours, theirs)
        ]
        return QualityReport(documents.name, quality, points(*right))
    finally:
        first.close()
        second.close()
