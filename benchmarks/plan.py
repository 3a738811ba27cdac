"""Forecasts of `gemlet plan` against measurement: memory and speed, by type, context and number of streams.

Usage: plan.py MODEL[=WEIGHTS][@LONGEST]... [--contexts 64 2048 8192] [--streams 1 4 8] [--rounds 3]
               [--memory also|only|not] [--gate FILE]
LONGEST: the longest context of that model. Memory is that of a fresh process for each model and context. For
speed every model and context has a process; a round measures each once, with the machine's limits just
before, which its forecast is made from. --gate: as in plan_steps.py. Writes benchmarks/results/plan-*.json.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from plan_steps import wait

from gemlet import machine
from gemlet.evaluate.engine_process import EngineProcess
from gemlet.evaluate.planned import Load, Measured, fill, measure_memory, measure_round, process
from gemlet.plan.compare import compare
from gemlet.plan.efficiency import measured
from gemlet.plan.fit import Wanted
from gemlet.plan.memory import forecast_memory
from gemlet.plan.subject import Subject, from_file
from results_file import write_result

ANSWER = 16
MEMORY_WITHIN, SPEED_WITHIN = 0.05, 0.15


class Case:
    """A model at a context."""

    def __init__(self, told: str, context: int, streams: list[int], threads: int) -> None:
        path, _, weights = told.partition("=")
        self.name = Path(path).name + (f" as {weights}" if weights else "")
        self.subject: Subject = from_file(Path(path), weights or "auto")
        self.context, self.wanted = context, Wanted.of(self.subject, context, max(streams), ANSWER)
        vocabulary = self.subject.config.vocab_size
        self.load = Load(Path(path), weights or "auto", threads, vocabulary, self.wanted.prompt, streams)
        self.memory: dict[int, dict[str, int]] = {}
        self.rounds: list[list[Measured]] = []

    def rows(self) -> list[dict[str, Any]]:
        """Lines of the table: one for each thing that was forecast."""
        rounds = [{one.what: (one.seconds, one.limits) for one in found} for found in self.rounds]
        efficiency = measured()
        lines = []
        for streams, told in self.memory.items():
            total = forecast_memory(self.subject, self.context, streams, efficiency).total
            lines.append(self._row("memory, MB", streams, total / 1e6, told["resident"] / 1e6, MEMORY_WITHIN))
        if rounds:
            found = compare(self.subject, self.wanted, efficiency, rounds, 1)
            key = "prefill_tokens_per_s"
            values = [found[kind][key] for kind in ("forecast_then", "measured", "ratio")]
            lines.append(self._row(key, 1, *values[:2], SPEED_WITHIN, values[2]))
            for count in found["measured"]["streams"]:
                values = [found[kind]["streams"][count] for kind in ("forecast_then", "measured", "ratio")]
                lines.append(
                    self._row("decode_tokens_per_s", int(count), *values[:2], SPEED_WITHIN, values[2])
                )
        return lines

    def _row(
        self,
        what: str,
        streams: int,
        forecast: float,
        found: float,
        within: float,
        ratio: float | None = None,
    ) -> dict[str, Any]:
        ratio = forecast / found if ratio is None else ratio
        return {
            "model": self.name,
            "context": self.context,
            "streams": streams,
            "what": what,
            "forecast": round(forecast, 2),
            "measured": round(found, 2),
            "ratio": round(ratio, 3),
            "holds": abs(ratio - 1) <= within,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL[=WEIGHTS][@LONGEST]")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 2048, 8192])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=["also", "only", "not"], default="also")
    parser.add_argument("--gate", type=Path)
    args = parser.parse_args()
    threads = machine.threads().count
    cases = [
        Case(told, context, args.streams, threads)
        for told, _, longest in (model.partition("@") for model in args.models)
        for context in args.contexts
        if not longest or context <= int(longest)
    ]
    for case in cases if args.memory != "not" else ():
        case.memory = measure_memory(case.load, args.streams)
        print(*case.rows(), sep="\n", flush=True)
    if args.memory != "only":
        measure_speed(cases, args.rounds, args.gate)
    rows = [row for case in cases for row in case.rows()]
    missed = [row for row in rows if not row["holds"]]
    for row in rows:
        print(*row.values(), flush=True)
    print(f"{len(rows) - len(missed)} of {len(rows)} hold")
    settings = {
        "threads": threads,
        "rounds": args.rounds,
        "constants": measured().source,
        "memory": [{"model": case.name, "context": case.context, "bytes": case.memory} for case in cases],
    }
    paths = {case.load.model for case in cases}
    print(write_result("plan", rows, models=sorted(paths), settings=settings))


def measure_speed(cases: list[Case], rounds: int, gate: Path | None) -> None:
    """Rounds over all cases, so that what drifts meets all of them."""
    with ExitStack() as stack:
        engines: list[EngineProcess] = []
        for case in cases:
            engines.append(stack.enter_context(process(case.load)))
            fill(engines[-1], case.load, 1, case.load.starts)
            print(f"{case.name} at {case.context} is ready", flush=True)
        wait(gate)
        for number in range(rounds):
            for case, engine in zip(cases, engines, strict=True):
                case.rounds.append(measure_round(engine, case.load, number))
            print(f"round {number + 1} is done", flush=True)


if __name__ == "__main__":
    main()
