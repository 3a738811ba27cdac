"""What a replay comes to: how many answers differ and in what, how long both sides took, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gemlet.serve.traffic.answers import Answer
from gemlet.serve.traffic.records import Seconds
from gemlet.serve.traffic.replay import Result
from gemlet.statistics.quantiles import nearest_rank
from gemlet.types import as_dict

Prices = tuple[float, float]
"""Of a million tokens of prompts, and of answers."""


def summarise(
    results: Sequence[Result], recorded_prices: Prices | None, prices: Prices | None
) -> dict[str, Any]:
    """The counts and figures of both sides. Durations, tokens and cost are of the same requests on both."""
    outcomes = Counter(result.outcome for result in results)
    finished = [result for result in results if result.outcome != "unfinished"]
    answered = [result for result in finished if result.replayed is not None]
    return {
        "requests": len(finished),
        **{name: outcomes[name] for name in ("equal", "different", "failed", "unfinished")},
        "differences": dict(Counter(kind for result in answered for kind in result.kinds).most_common()),
        "failures": dict(Counter(result.failure.kind for result in finished if result.failure)),
        "sampled_without_seed": sum(
            bool(result.recorded.choices) and not result.repeatable for result in answered
        ),
        "retried": sum(result.tries > 1 for result in finished),
        "recorded": _side(
            [(result.recorded, result.recorded_seconds) for result in answered], recorded_prices
        ),
        "replayed": _side([(result.replayed, result.seconds) for result in answered], prices),
    }


def _side(pairs: Sequence[tuple[Answer | None, Seconds | None]], prices: Prices | None) -> dict[str, Any]:
    answers = [answer for answer, _ in pairs if answer is not None]
    durations = [seconds for answer, seconds in pairs if seconds is not None and answer and answer.choices]
    names = Counter(answer.model for answer in answers if answer.model is not None)
    return {
        "models": dict(names.most_common()),
        "total_s": _quantiles([one.total for one in durations]),
        "first_token_s": _quantiles([one.first_token for one in durations if one.first_token is not None]),
        **_refusals(answers),
        **_tokens(answers, prices),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float | int | None]:
    return {
        "p50": nearest_rank(values, 0.5) if values else None,
        "p99": nearest_rank(values, 0.99) if values else None,
        "n": len(values),
    }


def _refusals(answers: Sequence[Answer]) -> dict[str, Any]:
    counts = Counter((one.status, str(one.refusal)) for one in answers if one.refusal is not None)
    listed = [
        {"status": status, "reason": reason, "count": count}
        for (status, reason), count in counts.most_common()
    ]
    return {"refused": sum(counts.values()), "refusals": listed}


def _tokens(answers: Sequence[Answer], prices: Prices | None) -> dict[str, Any]:
    """Sums over the answers that tell their counts."""
    counts = [(one.prompt_tokens, one.completion_tokens) for one in answers]
    told = [(a, b) for a, b in counts if a is not None and b is not None]
    prompt, completion = sum(a for a, _ in told), sum(b for _, b in told)
    return {
        "answers": sum(bool(one.choices) for one in answers),
        "answers_with_token_counts": len(told),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": None if prices is None else (prompt * prices[0] + completion * prices[1]) / 1e6,
    }


def rows(results: Sequence[Result]) -> list[Mapping[str, Any]]:
    """Each request, in the order of the records: both answers, and how they differ."""
    ordered = sorted(results, key=lambda result: (result.place.path, result.place.line))
    return [
        {
            "file": str(result.place.path),
            "line": result.place.line,
            "path": result.path,
            "asked": result.asked,
            "stream": result.stream,
            "repeatable": result.repeatable,
            "outcome": result.outcome,
            "differences": list(result.kinds),
            "similarity": None if result.difference is None else result.difference.similarity,
            "first_difference": None if result.difference is None else result.difference.first,
            "failure": None
            if result.failure is None
            else {"kind": result.failure.kind, "message": result.failure.message},
            "tries": result.tries,
            "recorded": as_dict(result.recorded) | {"seconds": as_dict(result.recorded_seconds)},
            "replayed": None
            if result.replayed is None
            else as_dict(result.replayed) | {"seconds": as_dict(result.seconds)},
        }
        for result in ordered
    ]
