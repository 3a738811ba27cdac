"""What an evaluation amounts to, in plain words, by fixed rules.

A difference counts as measured where its 95 % interval leaves out zero and its paired test has p < 0.05;
everything else is a tie. The domain's gain is the loss a token of held-out examples; where that was not
measured, the share of right answers, or of preferences.

Outside, a rise of perplexity counts as small below 5 %, notable from 5 % and severe from 25 %, each by the
low end of its interval; points lost in general questions count as notable where that is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any, Literal

NOTABLE_PERPLEXITY = 1.05
SEVERE_PERPLEXITY = 1.25
SIGNIFICANT = 0.05
FEW = 20
"""Items below which a tie may well be for want of them."""

Change = Literal["better", "worse", "tie", "same", "unknown"]
Forgetting = Literal["none", "small", "notable", "severe", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """code: gain and loss in a word each, for programs. gained, lost: a sentence each, with intervals."""

    headline: str
    advice: str
    domain: Change
    forgetting: Forgetting
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """Judge what `evaluation.evaluate` measured."""
    domain, forgetting = _domain(evaluation), _forgetting(evaluation)
    if domain in ("same", "unknown") and _is_same(evaluation):
        headline, advice = (
            "No measurable change",
            "both sides answer bit for bit alike: was anything trained?",
        )
    else:
        headline, advice = _headline(domain, forgetting, evaluation)
    return Verdict(headline, advice, domain, forgetting, _gained(evaluation), _lost(evaluation))


def _domain(evaluation: Mapping[str, Any]) -> Change:
    if (loss := evaluation.get("loss")) is not None:
        return _change(loss, rising_is_better=False)
    if (answers := evaluation.get("answers")) is not None:
        return _change(answers["exact"], rising_is_better=True)
    if (preferences := evaluation.get("preferences")) is not None:
        return _change(preferences, rising_is_better=True)
    return "unknown"


def _change(found: Mapping[str, Any], rising_is_better: bool) -> Change:
    """Of one measure."""
    difference = found["difference"]
    low, high = difference["low"], difference["high"]
    if low is None or high is None:  # one item says nothing
        return "tie"
    if low == high == 0:
        return "same"
    if low <= 0 <= high or found["p"] >= SIGNIFICANT:
        return "tie"
    return "better" if (low > 0) == rising_is_better else "worse"


def _forgetting(evaluation: Mapping[str, Any]) -> Forgetting:
    text, questions = evaluation.get("text"), evaluation.get("questions")
    if text is None and questions is None:
        return "unknown"
    low = text["perplexity_ratio"]["low"] if text is not None else None
    if low is not None and low >= SEVERE_PERPLEXITY:
        return "severe"
    worse = questions is not None and _change(questions, rising_is_better=True) == "worse"
    if worse or (low is not None and low >= NOTABLE_PERPLEXITY):
        return "notable"
    return "small" if low is not None and low > 1 else "none"


def _is_same(evaluation: Mapping[str, Any]) -> bool:
    """Whether every distribution that was compared is equal."""
    text = evaluation.get("text")
    return text is not None and text["kl"]["estimate"] == text["kl"]["high"] == 0


def _headline(domain: Change, forgetting: Forgetting, evaluation: Mapping[str, Any]) -> tuple[str, str]:
    lost = forgetting in ("notable", "severe")
    cure = "stop earlier, lower the rate, or mix general examples into the data"
    if domain == "better":
        if forgetting == "severe":
            return "Better in its domain, but much was forgotten", f"do not use it as it is: {cure}"
        if lost:
            return "Better in its domain, at a cost outside it", f"keep it for this domain only, or {cure}"
        if forgetting == "unknown":
            return "Better in its domain", "keep it; what it lost outside was not measured"
        return "Better in its domain", "keep it"
    if domain == "worse":
        return "Worse in its own domain", "do not use it: lower the rate, stop earlier, and look at the data"
    if domain == "unknown":
        advice = "hold examples out (test.jsonl) to learn whether it gained anything"
        return ("Much was forgotten, gain unknown" if lost else "Gain unknown", advice)
    if lost:
        return "No measurable gain, and a loss outside the domain", f"do not use it: {cure}"
    measured = evaluation.get("loss") or (evaluation.get("answers") or {}).get("exact") or {}
    if measured.get("n", 0) < FEW:
        return "No measurable gain", "too few held-out examples to tell: hold out more"
    return "No measurable gain", "train longer, with a higher rate, or on more examples"


# --- Sentences


def _gained(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    lines = []
    if (loss := evaluation.get("loss")) is not None:
        change = _change(loss, rising_is_better=False)
        ratio = _interval(loss["difference"], lambda x: 100 * (exp(min(x, 700)) - 1), "+.1f", " %")
        lines.append(
            f"Perplexity of held-out answers {_number(loss['perplexity_before'])} → "
            f"{_number(loss['perplexity_after'])}: {ratio}, {_word(change)} ({loss['n']} examples)"
        )
    answers = evaluation.get("answers") or {}
    for name, found in (
        ("Held-out prompts answered exactly", answers.get("exact")),
        ("The same, normalised", answers.get("normalised")),
        ("Preferences kept", evaluation.get("preferences")),
    ):
        if found is not None:
            lines.append(_points(name, found))
    return tuple(lines)


def _lost(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    lines = []
    if (text := evaluation.get("text")) is not None:
        ratio = text["perplexity_ratio"]
        low, high = ratio["low"], ratio["high"]
        one_sided = low is not None and high is not None and not low <= 1 <= high
        word = ("worse" if low > 1 else "better") if one_sided else "tie"
        if low == high == 1:
            word = "same"
        shown = _interval(ratio, lambda x: 100 * (x - 1), "+.1f", " %")
        lines.append(f"Perplexity of general text {shown}, {_word(word)} ({text['n']} documents)")
        lines.append(f"Distance (KL) from the base there {_interval(text['kl'], float, '.4f', ' nats')}")
    if (questions := evaluation.get("questions")) is not None:
        lines.append(_points("General questions right", questions))
    return tuple(lines)


def _points(name: str, found: Mapping[str, Any]) -> str:
    change = _change(found, rising_is_better=True)
    before, after = (100 * found[side]["estimate"] for side in ("before", "after"))
    points = _interval(found["difference"], lambda x: 100 * x, "+.1f", " points")
    return f"{name} {before:.1f} % → {after:.1f} %: {points}, {_word(change)} ({found['n']} items)"


def _word(change: str) -> str:
    return {"same": "no change", "tie": "a tie"}.get(change, change)


def _number(interval: Mapping[str, Any]) -> str:
    value = interval["estimate"]
    return "∞" if value is None else f"{value:.3g}"


def _interval(interval: Mapping[str, Any], scale: Any, form: str, unit: str) -> str:
    ends = [None if interval[name] is None else scale(interval[name]) for name in ("estimate", "low", "high")]
    estimate, low, high = ("?" if end is None else f"{end:{form}}" for end in ends)
    return f"{estimate}{unit} ({low} to {high})"
