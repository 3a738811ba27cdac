"""Samples of speed as a result file keeps them and as a table shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gemlet.evaluate.record import spread
from gemlet.evaluate.stages import OURS, Plan, Samples, Stage
from gemlet.model.work import Work
from gemlet.ops.limits import Limits


def describe_stage(stage: Stage, samples: Samples) -> dict[str, Any]:
    """All that was measured of a stage: seconds, the machine's limits, and the least time they allow."""
    limits, work = samples.limits[stage.name], samples.work.get(stage.name)
    return {
        "name": stage.name,
        "kind": stage.kind,
        "unit": "tokens/s" if stage.rate else "s",
        "values": {
            name: [stage.value(seconds) for seconds in taken]
            for name, taken in samples.seconds[stage.name].items()
        },
        "limits": [asdict(limit) for limit in limits],
        "work": None if work is None else asdict(work),
        "bound": None if work is None else bound(work, limits),
        "limit": None if work is None else [stage.value(work.seconds(limit)) for limit in limits],
        "shares": None
        if work is None
        else {name: shares(work, limits, taken) for name, taken in samples.seconds[stage.name].items()},
    }


def bound(work: Work, limits: Sequence[Limits]) -> str:
    """What the machine spends most of the least time on."""
    reading = statistics.median(work.seconds_reading(limit) for limit in limits)
    computing = statistics.median(work.seconds_computing(limit) for limit in limits)
    return "memory" if reading >= computing else "arithmetic"


def shares(work: Work, limits: Sequence[Limits], seconds: Sequence[float]) -> list[float]:
    """Round by round, the part of the time taken that the machine's limits account for."""
    return [work.seconds(limit) / taken for limit, taken in zip(limits, seconds, strict=True)]


def table_row(stage: Stage, plan: Plan, samples: Samples) -> dict[str, Any]:
    """One line of the table."""
    taken = samples.seconds[stage.name]
    values = {name: [stage.value(seconds) for seconds in taken.get(name, [])] for name in plan.engines}
    result: dict[str, Any] = {"what": f"{stage.name}, {'tokens/s' if stage.rate else 's'}"}
    result[OURS] = spread(values[OURS])
    if plan.against is not None:
        theirs = values[plan.against]
        ratios = [a / b if stage.rate else b / a for a, b in zip(values[OURS], theirs, strict=False)]
        result[plan.against] = spread(theirs) if theirs else None
        result["times as fast"] = spread(ratios) if ratios else None
    result["limit"] = result["of the limit"] = None
    if (work := samples.work.get(stage.name)) is not None:
        limits = samples.limits[stage.name]
        result["limit"] = spread([stage.value(work.seconds(limit)) for limit in limits])
        result["of the limit"] = f"{100 * statistics.median(shares(work, limits, taken[OURS])):.0f} %"
    return result


def memory_rows(plan: Plan, samples: Samples) -> list[dict[str, Any]]:
    """Lines of the table for memory, with the same columns as the stages."""
    columns = list(table_row(plan.stages[0], plan, samples))
    resident: dict[str, Any] = {"what": "memory resident, MiB"}
    for name, taken in samples.memory.items():
        resident[name] = spread([one["resident"] / 2**20 for one in taken])
    rest = [one["resident"] - one["weights"] - one["kv"] for one in samples.memory[OURS]]
    beside = {"what": "of it beside weights, keys and values", OURS: spread([size / 2**20 for size in rest])}
    return [{column: line.get(column) for column in columns} for line in (resident, beside)]


def describe_memory(plan: Plan, samples: Samples) -> dict[str, Any]:
    """Bytes, medians over the rounds: what the system counts as resident, and what that is."""
    taken = samples.memory[OURS]
    parts = {key: int(statistics.median(one[key] for one in taken)) for key in ("resident", "weights", "kv")}
    found: dict[str, Any] = {
        **parts,
        "rest": parts["resident"] - parts["weights"] - parts["kv"],
        "kv_price": {str(positions): price for positions, price in samples.kv_price.items()},
    }
    if plan.against is not None:
        peers = [one["resident"] for one in samples.memory[plan.against]]
        found[plan.against] = {"resident": int(statistics.median(peers))}
    return found


def table(result: Mapping[str, Any]) -> list[str]:
    """A result as lines for a person: the stages, memory, and the limits they stand beside."""
    rows = result["rows"]
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    limits = [limit for stage in result["stages"] for limit in stage["limits"]]
    rates = {name: spread([limit[name] / 1e9 for limit in limits]) for name in limits[0]}
    memory = result["memory"]
    parts = ", ".join(f"{name} {memory[name] / 2**20:.1f}" for name in ("weights", "kv", "rest"))
    return [
        *lines,
        "",
        f"memory, MiB: {memory['resident'] / 2**20:.1f} resident: {parts}",
        f"limits, medians: {rates['read_bytes']['median']:.1f} GB/s read from memory, G multiply-adds/s: "
        f"{rates['byte_products']['median']:.0f} of bytes, {rates['float_products']['median']:.0f} of floats",
        f"{result['settings']['threads']} threads, {result['machine']['instruction_set']}, "
        f"{result['machine']['processor']}",
    ]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_number(value['median'])} ({_number(value['low'])} to {_number(value['high'])})"
    return "" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
