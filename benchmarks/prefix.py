"""Time to first token behind a prefix that was seen before: computed anew, from memory, from disk.

Usage: prefix.py MODEL.gguf [--prefix 2048] [--tail 16] [--rounds 5]
A prompt is a prefix of random ids and a tail that is new each time. What comes from disk is measured in a new
process each time, after an unrelated short prompt: loading the model is not counted. "disk, cold" has the
system drop the files from memory before. Writes benchmarks/results/prefix-*.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gemlet.evaluate.engines import random_ids
from gemlet.evaluate.record import spread
from gemlet.infer.cache import PageFiles
from gemlet.infer.engine import Engine
from gemlet.infer.prefixes import Place, Prefixes
from gemlet.infer.requests import AnswerRequest, Event, Failed, Started, Token
from gemlet.model.decoder import Decoder
from gemlet.model.sources import open_source
from gemlet.model.weights import load_weights
from gemlet.ops.batch import PAGE, Batch
from gemlet.store.settings import cache_dir
from gemlet.types import Sampling
from results_file import write_result

LIMITS = {"memory": 0.050, "disk": 0.200}
"""Seconds to the first token of a 2,048-token prefix in the 1B shape."""

DISK_BYTES = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--prefix", type=int, default=2048)
    parser.add_argument("--tail", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        print(json.dumps(from_disk(args.model, args.folder, args.prefix, args.tail, args.seed)))
        return

    with tempfile.TemporaryDirectory() as folder:
        times = measure(args.model, Path(folder), args.prefix, args.tail, args.rounds)
        times |= parts(args.model, Path(folder), args.prefix, args.rounds)
    rows: list[dict[str, Any]] = [
        {"what": what, "seconds": spread(values), "limit": LIMITS.get(what.split(",")[0])}
        for what, values in times.items()
    ]
    settings = {"model": args.model.name, "prefix": args.prefix, "tail": args.tail, "rounds": args.rounds}
    path = write_result("prefix", rows, models=[args.model], settings=settings)
    for row in rows:
        limit = f", limit {row['limit']:.3f}" if row["limit"] else ""
        print(f"{row['what']}: {row['seconds']['median']:.5f} s ({row['seconds']['low']:.5f} at best){limit}")
    print(path)


def measure(model: Path, folder: Path, prefix: int, tail: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"computed": [], "memory": [], "disk": [], "disk, cold": []}
    for seed in range(rounds):
        engine = open_engine(model, folder)
        first_token(engine, random_ids(8, seed=1000 + seed))
        beginning = list(random_ids(prefix, seed=seed))
        times["computed"].append(first_token(engine, prompt(beginning, tail, seed, 0))[0])
        for again in range(1, 9):
            seconds, cached = first_token(engine, prompt(beginning, tail, seed, again))
            check(cached, prefix)
            times["memory"].append(seconds)
        engine.close()  # writes what is not on disk yet
        for what in ("disk", "disk, cold"):
            if what == "disk, cold":
                drop(folder)
            command = [sys.executable, __file__, str(model), "--folder", str(folder), "--seed", str(seed)]
            command += ["--prefix", str(prefix), "--tail", str(tail)]
            seconds, cached = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            check(cached, prefix)
            times[what].append(seconds)
    return times


def from_disk(model: Path, folder: Path, prefix: int, tail: int, seed: int) -> tuple[float, int]:
    """Seconds and cached tokens, in a process that has read nothing but a short prompt."""
    engine = open_engine(model, folder)
    first_token(engine, random_ids(8, seed=2000 + seed))
    result = first_token(engine, prompt(list(random_ids(prefix, seed=seed)), tail, seed, 9))
    engine.close()
    return result


def parts(model: Path, folder: Path, prefix: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of finding a prefix alone, without computing a row behind it, and of checking half a page."""
    decoder = open_decoder(model)
    beginning = random_ids(prefix, seed=0)
    times: dict[str, list[float]] = {"pages alone, disk": [], "pages alone, memory": []}
    for _ in range(5 * rounds):
        prefixes = Prefixes(decoder, DISK_BYTES, files=PageFiles(folder, DISK_BYTES))
        for what in times:
            began = time.perf_counter()
            state = prefixes.find(Place(root(model, decoder)), beginning, prefix).state
            times[what].append(time.perf_counter() - began)
            check(0 if state is None else state.length, prefix)
    times |= checks(decoder, rounds)
    decoder.close()
    return times


def checks(decoder: Decoder, rounds: int) -> dict[str, list[float]]:
    """What noticing a torn file costs: seconds to check the local half of a page in several ways."""
    state = decoder.new_state()
    decoder.step(Batch.of([(state, random_ids(PAGE, seed=0))]))
    data = state.page(0, True).save()
    ways: dict[str, Callable[[], object]] = {
        f"{len(data)} bytes restored, with their checksum": lambda: decoder.restore_page(0, True, PAGE, data),
        f"{len(data)} bytes, crc32": lambda: zlib.crc32(data),
        f"{len(data)} bytes, sha256": lambda: hashlib.sha256(data).digest(),
        f"{len(data)} bytes, blake2b": lambda: hashlib.blake2b(data).digest(),
    }
    times: dict[str, list[float]] = {what: [] for what in ways}
    for _ in range(20 * rounds):
        for what, check_once in ways.items():
            began = time.perf_counter()
            check_once()
            times[what].append(time.perf_counter() - began)
    return times


def open_engine(model: Path, folder: Path) -> Engine:
    decoder = open_decoder(model)
    return Engine(decoder, prefix_files=PageFiles(folder, DISK_BYTES), prefix_root=root(model, decoder))


def open_decoder(model: Path) -> Decoder:
    source = open_source(model)
    return Decoder(source.config, load_weights(source, cache_dir=cache_dir()))


def root(model: Path, decoder: Decoder) -> bytes:
    return f"{model.name} {decoder.instruction_set} {decoder.build}".encode()


def prompt(beginning: list[int], tail: int, seed: int, number: int) -> list[int]:
    return [*beginning, *random_ids(tail, seed=100_000 + 100 * seed + number)]


def first_token(engine: Engine, ids: Sequence[int]) -> tuple[float, int]:
    """Seconds from the request to its first token, and the tokens that were not computed again."""
    events: SimpleQueue[Event] = SimpleQueue()
    began = time.perf_counter()
    engine.submit(AnswerRequest(tuple(map(int, ids)), 1, Sampling(temperature=0.0), 0), events.put)
    cached = 0
    while True:
        event = events.get()
        if isinstance(event, Started):
            cached = event.cached_tokens
        elif isinstance(event, Token):
            return event.at - began, cached
        elif isinstance(event, Failed):
            raise event.error


def check(cached: int, prefix: int) -> None:
    if cached < prefix // 64 * 64:
        raise SystemExit(f"only {cached} of {prefix} tokens were found")


def drop(folder: Path) -> None:
    """Have the system write the files out and forget them."""
    os.sync()
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    main()
