"""Speed of gemlet beside llama.cpp on one GGUF file, alternating in one run.

Usage: speed.py MODEL.gguf [--rounds 5] [--threads N] [--streams 4 8]
Writes benchmarks/results/speed-*.json: medians over the rounds with the smallest and largest value; the ratio
is taken within each round. Needs llama-cpp-python, built for this processor (`make bench` does that).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from engines import Engine, Gemlet, LlamaCpp, random_ids
from gemlet.machine import threads as usable_threads
from results_file import spread, write_result

PAUSE_S = 0.3
"""Rest between measurements: threads of the other engine may still be waiting for work at full speed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads().count)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each decode measurement")
    parser.add_argument("--streams", type=int, nargs="*", default=[4, 8])
    args = parser.parse_args()

    engines: list[Engine] = [Gemlet(args.model, args.threads), LlamaCpp(args.model, args.threads)]
    for engine in engines:
        engine.prefill(random_ids(64, seed=0))
        engine.decode(random_ids(4, seed=0))
    measured: dict[str, dict[str, list[float]]] = {}
    for number in range(args.rounds):
        for what, values in one_round(engines, args.tokens, args.streams, number).items():
            for engine_name, value in values.items():
                measured.setdefault(what, {}).setdefault(engine_name, []).append(value)
        print(f"round {number + 1} of {args.rounds}", flush=True)
    details = {engine.name: engine.details for engine in engines}
    for engine in engines:
        engine.close()

    rows = [row(what, by_engine) for what, by_engine in measured.items()]
    settings = {"model": args.model.name, "threads": args.threads, "rounds": args.rounds, "engines": details}
    path = write_result("speed", rows, models=[args.model], packages=["llama-cpp-python"], settings=settings)
    for line in rows:
        print(
            *(
                f"{key}: {value['median']:.3g}" if isinstance(value, dict) else value
                for key, value in line.items()
            )
        )
    print(path)


def one_round(
    engines: list[Engine], tokens: int, streams: list[int], number: int
) -> dict[str, dict[str, float]]:
    """Tokens per second by measurement and engine; who goes first changes from round to round."""
    order = engines if number % 2 == 0 else engines[::-1]
    ids = random_ids(2048 + tokens, seed=number + 1)
    speeds: dict[str, dict[str, float]] = {}

    def measure(what: str, tokens_per_s: Any) -> None:
        for engine in order:
            time.sleep(PAUSE_S)
            speeds.setdefault(what, {})[engine.name] = tokens_per_s(engine)

    def decode(engine: Engine) -> float:
        return 1 / statistics.median(engine.decode(ids[2048:]))

    def decode_from_start(engine: Engine) -> float:
        engine.prefill(ids[:1])
        return decode(engine)

    measure("prefill 512", lambda engine: 512 / engine.prefill(ids[:512]))
    measure("decode", decode_from_start)
    measure("prefill 2048", lambda engine: 2048 / engine.prefill(ids[:2048]))
    measure("decode after 2048", decode)
    for count in streams:
        # The first steps also make room for the new sequences.
        measure(
            f"decode, {count} streams",
            lambda engine, n=count: n / statistics.median(engine.streams(n, ids[:24])[2:]),
        )
    return speeds


def row(what: str, by_engine: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table."""
    ours, theirs = by_engine[Gemlet.name], by_engine[LlamaCpp.name]
    return {
        "what": what,
        "gemlet, tokens/s": spread(ours),
        "llama.cpp, tokens/s": spread(theirs),
        "ratio": spread([a / b for a, b in zip(ours, theirs, strict=True)]),
    }


if __name__ == "__main__":
    main()
