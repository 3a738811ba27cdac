"""Two results of speed, one recorded before: which stage moved, and was it the engine or the machine.

A round is one value. Values are compared by ranks, all stages together at one level of error. What the engine
makes of the machine is judged by its share of the machine's limits, which were measured in both results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemlet.errors import InvalidRequestError
from gemlet.evaluate.stages import OURS
from gemlet.formats.files import read_json
from gemlet.statistics.ranks import holm, rank_test, shift

LEVEL = 0.05
"""How often, at most, an unchanged engine on an unchanged machine is said to have moved in any stage."""


def read_result(path: Path) -> dict[str, Any]:
    """A result file of `gemlet bench speed`. InvalidRequestError for any other file."""
    document = read_json(path)
    stages = document.get("stages")
    if document.get("benchmark") != "speed" or not isinstance(stages, list):
        raise InvalidRequestError(f"{path} is no result of gemlet bench speed")
    for stage in stages:
        try:
            values = [
                *stage["values"][OURS],
                *(stage["limit"] or []),
                *((stage["shares"] or {}).get(OURS, [])),
            ]
            bad = not stage["values"][OURS] or not all(_positive(value) for value in values)
        except (TypeError, KeyError):
            bad = True
        if bad:
            raise InvalidRequestError(f"{path}: a stage lacks its values", hint="record the baseline again")
    return document


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Stage by stage: the change of speed, of the machine and of the engine, each as a ratio after/before.

    Raises InvalidRequestError where the two did not measure the same work.
    """
    for what in ("files", "threads", "tokens"):
        old, new = (_setting(result, what) for result in (before, after))
        if old != new:
            raise InvalidRequestError(f"the results differ in {what}: {old} before, {new} now")
    known = {stage["name"]: stage for stage in before["stages"]}
    pairs = [(known[stage["name"]], stage) for stage in after["stages"] if stage["name"] in known]
    if not pairs:
        raise InvalidRequestError("the results have no stage in common")
    changes = [_changes(old, new) for old, new in pairs]
    for kind in ("speed", "machine", "engine"):
        tested = [change[kind] for change in changes if change[kind] is not None]
        for change, p in zip(tested, holm([change["p"] for change in tested]), strict=True):
            change["p"] = p
            change["moved"] = p < LEVEL
    stages = [
        {"name": new["name"], **change, "verdict": _verdict(change)}
        for (_, new), change in zip(pairs, changes, strict=True)
    ]
    return {"stages": stages, "notes": _notes(before, after, pairs)}


def lines(comparison: Mapping[str, Any]) -> list[str]:
    """The comparison for a person."""
    found = [
        f"{stage['name']:<22}{_percent(stage['speed'])}  {stage['verdict']}" for stage in comparison["stages"]
    ]
    return [*found, *comparison["notes"]]


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _setting(result: Mapping[str, Any], what: str) -> Any:
    if what == "files":
        return sorted(file["sha256"][:16] for file in result["files"].values())
    return result["settings"].get(what)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    sign = 1 if new["unit"] == "tokens/s" else -1  # so that more is always faster
    changes: dict[str, Any] = {
        "speed": _change(old["values"][OURS], new["values"][OURS], sign),
        "machine": None,
        "engine": None,
    }
    if old["limit"] and new["limit"]:
        changes["machine"] = _change(old["limit"], new["limit"], sign)
        changes["engine"] = _change(old["shares"][OURS], new["shares"][OURS], 1)
    return changes


def _change(before: Sequence[float], after: Sequence[float], sign: int) -> dict[str, Any]:
    a, b = ([sign * math.log(value) for value in values] for values in (after, before))
    found = shift(a, b)
    bounds = {"low": found.low, "high": found.high}
    told = {name: math.exp(value) if math.isfinite(value) else None for name, value in bounds.items()}
    return {"ratio": math.exp(found.estimate), **told, "p": rank_test(a, b)}


def _verdict(change: Mapping[str, Any]) -> str:
    speed, machine, engine = change["speed"], change["machine"], change["engine"]
    if engine is None:
        return f"{_direction(speed)}, engine or machine" if speed["moved"] else _unmoved(speed)
    if engine["moved"]:
        hidden = machine["moved"] and (machine["ratio"] > 1) != (engine["ratio"] > 1)
        besides = f", and the machine {_direction(machine)}" if hidden else ""
        return f"engine {_direction(engine)} by {abs(engine['ratio'] - 1):.1%}{besides}"
    if speed["moved"] and machine["moved"] and (speed["ratio"] > 1) == (machine["ratio"] > 1):
        return f"machine {_direction(machine)}, engine as before"
    if speed["moved"]:
        return f"{_direction(speed)}, engine or machine: the limits varied too much to tell"
    return _unmoved(engine)


def _direction(change: Mapping[str, Any]) -> str:
    return "faster" if change["ratio"] > 1 else "slower"


def _unmoved(change: Mapping[str, Any]) -> str:
    if change["low"] is None:
        return "too few rounds to tell"
    return f"not moved (between {change['low'] - 1:+.1%} and {change['high'] - 1:+.1%})"


def _percent(change: Mapping[str, Any]) -> str:
    return f"{change['ratio'] - 1:+7.1%}"


def _notes(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[str]:
    notes = []
    machines = [result["machine"].get("processor") for result in (before, after)]
    if machines[0] != machines[1]:
        notes.append(f"another machine: {machines[0]} before, {machines[1]} now")
    if (
        before["versions"].get("gemlet") != after["versions"].get("gemlet")
        or before["commit"] != after["commit"]
    ):
        notes.append(
            f"before: gemlet {before['versions'].get('gemlet')}, commit {(before['commit'] or 'unknown')[:9]}"
        )
    rounds = [min(len(stage["values"][OURS]) for stage in pair) for pair in pairs]
    # Seven and seven rounds: even of ten stages, one that moved wholly has p = 10 * 2 / 3432.
    if min(rounds) < 7:
        notes.append(f"only {min(rounds)} rounds: small changes cannot be told, below 5 none")
    old, new = (result.get("memory", {}).get("rest") for result in (before, after))
    if isinstance(old, int) and isinstance(new, int) and abs(new - old) > 1 << 20:
        notes.append(
            f"memory beside weights and states: {old / 2**20:.1f} MiB before, {new / 2**20:.1f} MiB now"
        )
    return notes
