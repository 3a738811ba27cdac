"""Time from typing `gemlet run` to the first token of the answer, with the model already packed.

Usage: start.py [-m REF] [--rounds 7]        without -m the model that gemlet itself would take
The process is started anew each time and its first output byte awaited.
Writes benchmarks/results/start-*.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any

from results_file import spread, write_result

LIMIT_S = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    chosen = ["-m", args.model] if args.model else []
    command = [sys.executable, "-m", "gemlet", "run", "--raw", "-q", "-n", "1", "-t", "0", *chosen, "The"]
    first_byte(command)  # packs the weights if that was never done, and warms the file cache
    importing = [sys.executable, "-c", "import gemlet"]
    rows: list[dict[str, Any]] = [
        {
            "what": "gemlet run, to the first token",
            "seconds": spread(repeat(args.rounds, command)),
            "limit": LIMIT_S,
        },
        {"what": "import gemlet", "seconds": spread(repeat(args.rounds, importing)), "limit": None},
    ]
    path = write_result(
        "start", rows, models=[], settings={"model": args.model or "default", "rounds": args.rounds}
    )
    for row in rows:
        print(f"{row['what']}: {row['seconds']['median']:.3f} s")
    print(path)


def repeat(rounds: int, command: list[str]) -> list[float]:
    return [first_byte(command) for _ in range(rounds)]


def first_byte(command: list[str]) -> float:
    """Seconds until the command writes something, or ends."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds


if __name__ == "__main__":
    main()
