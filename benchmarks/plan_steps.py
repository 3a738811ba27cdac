"""What single steps cost: the measurements that `gemlet plan` forecasts from.

Usage: plan_steps.py MODEL[=WEIGHTS]... [--rounds 5] [--gate FILE]
Steps of 1 to 256 rows, with and without the head, behind several numbers of positions and in several streams,
each beside the machine's limits at that moment. --gate: when everything is loaded FILE.ready is written, and
measuring begins as soon as FILE exists. Writes benchmarks/results/plan-steps-*.json; plan_fit.py reads it.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemlet import machine
from gemlet.evaluate.engine_process import EngineProcess
from gemlet.evaluate.engines import random_ids
from gemlet.model.sources import open_source
from gemlet.ops.limits import measure_limits
from results_file import write_result

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LENGTHS = (64, 2048, 7936, 8192)
SKIPPED = 1  # the first step of a sequence also makes room

# name of a kind of step, positions before it, streams, rows of each, logits
Cell = tuple[str, int, int, int, str]


def cells() -> list[Cell]:
    """What is measured, in order."""
    layers: list[Cell] = [("layers", 0, 1, rows, "none") for rows in ROWS]
    heads: list[Cell] = [("head", 0, 1, rows, "all") for rows in (1, 2, 3, 4, 6, 8, 12, 16, 32)]
    deep: list[Cell] = [("deep", length, 1, rows, "none") for length in (2048, 7936) for rows in (64, 256)]
    streams: list[Cell] = [
        ("streams", length, count, 1, "last") for length in (64, 2048, 8192) for count in (1, 2, 4, 8)
    ]
    return layers + heads + deep + streams


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL[=WEIGHTS]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gate", type=Path)
    args = parser.parse_args()
    threads = machine.threads().count
    chosen = [(Path(path), weights or "auto") for path, _, weights in (m.partition("=") for m in args.models)]
    samples: list[dict[str, Any]] = []
    with ExitStack() as stack:
        engines = []
        for path, weights in chosen:
            engine = stack.enter_context(EngineProcess("gemlet", path, threads, max(LENGTHS), weights))
            vocabulary = open_source(path).config.vocab_size
            engine.call("fill", random_ids(max(LENGTHS), 0, vocabulary), LENGTHS)
            engines.append(engine)
            print(f"{path.name} is ready", flush=True)
        wait(args.gate)
        for number in range(args.rounds):
            for (path, weights), engine in zip(chosen, engines, strict=True):
                vocabulary = open_source(path).config.vocab_size
                samples += measure(engine, f"{path.name}={weights}", threads, number, vocabulary)
                print(f"round {number + 1}: {path.name}", flush=True)
        isa = other_limits(threads)
    settings = {"threads": threads, "rounds": args.rounds, "samples": samples, "instruction_sets": isa}
    print(write_result("plan-steps", [], models=[path for path, _ in chosen], settings=settings))


def wait(gate: Path | None) -> None:
    """Go on when the file is there."""
    if gate is None:
        return
    gate.with_name(gate.name + ".ready").touch()
    while not gate.exists():
        time.sleep(0.1)


def measure(
    engine: EngineProcess, name: str, threads: int, number: int, vocabulary: int
) -> list[dict[str, Any]]:
    """One round of a model."""
    found, kind, limits = [], "", {}
    for cell in cells():
        if cell[0] != kind:
            kind, limits = cell[0], asdict(measure_limits(threads, seconds=0.15))
        _, length, streams, rows, logits = cell
        ids = random_ids(rows, number, vocabulary)
        times = 2 if rows > 16 else 4
        seconds = engine.call("time_steps", length, streams, ids, times, logits)[SKIPPED:]
        found.append({"model": name, "cell": cell, "round": number, "seconds": seconds, "limits": limits})
    return found


def other_limits(threads: int) -> dict[str, dict[str, float]]:
    """The limits with each instruction set that runs here."""
    from gemlet.ops.native import instruction_sets

    found = {}
    for name in instruction_sets():
        os.environ["GEMLET_ISA"] = name
        found[name] = asdict(measure_limits(threads, seconds=0.5))
    del os.environ["GEMLET_ISA"]
    return found


if __name__ == "__main__":
    main()
