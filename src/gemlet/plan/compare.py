"""Forecasts beside measurements that were taken at the same moments."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gemlet.ops.limits import Limits
from gemlet.plan.efficiency import Efficiency
from gemlet.plan.fit import Wanted
from gemlet.plan.memory import forecast_memory
from gemlet.plan.step_cost import CostModel, Step
from gemlet.plan.subject import Subject

Round = Mapping[str, tuple[float, Limits]]
"""By what was measured (prompt, or a number of streams): seconds, and the limits just before."""


def forecast_seconds(
    subject: Subject, wanted: Wanted, efficiency: Efficiency, what: str, limits: Limits
) -> float:
    """The forecast of one thing that was measured, at the limits of that moment."""
    model = CostModel(subject, limits, efficiency)
    if what == "prompt":
        return model.prompt_seconds(wanted.prompt)
    return model.seconds(Step(wanted.prompt, int(what), 1, int(what)))


def compare(
    subject: Subject,
    wanted: Wanted,
    efficiency: Efficiency,
    rounds: Sequence[Round],
    resident: int,
    sketch: bool = True,
) -> dict[str, Any]:
    """`measured` and `forecast_then`: medians over the rounds, with the names of the forecast; `ratio`: of
    each forecast to its measurement in the same round, the median."""
    memory = forecast_memory(subject, wanted.context, wanted.streams, efficiency, sketch=sketch).total
    measured: dict[str, Any] = {"memory_bytes": resident, "streams": {}}
    then: dict[str, Any] = {"memory_bytes": memory, "streams": {}}
    ratio: dict[str, Any] = {"memory_bytes": memory / resident, "streams": {}}
    for what in rounds[0]:
        taken = [one[what] for one in rounds]
        forecasts = [forecast_seconds(subject, wanted, efficiency, what, limits) for _, limits in taken]
        pairs = [(seconds, wait) for (seconds, _), wait in zip(taken, forecasts, strict=True)]
        for place, values in (
            (measured, [seconds for seconds, _ in pairs]),
            (then, [wait for _, wait in pairs]),
        ):
            _put(place, wanted, what, statistics.median(values))
        # As rates: how many times as fast as measured it was said to be.
        _put_ratio(ratio, what, statistics.median(seconds / wait for seconds, wait in pairs))
    return {"measured": measured, "forecast_then": then, "ratio": ratio}


def _put(place: dict[str, Any], wanted: Wanted, what: str, seconds: float) -> None:
    if what == "prompt":
        place["prefill_tokens_per_s"] = wanted.prompt / seconds
        place["ttft_s"] = seconds
    else:
        place["streams"][what] = int(what) / seconds
        if what == "1":
            place["decode_tokens_per_s"] = 1 / seconds


def _put_ratio(place: dict[str, Any], what: str, ratio: float) -> None:
    if what == "prompt":
        place["prefill_tokens_per_s"] = ratio
        place["ttft_s"] = 1 / ratio
    else:
        place["streams"][what] = ratio
        if what == "1":
            place["decode_tokens_per_s"] = ratio
