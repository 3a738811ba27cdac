"""A long run of random requests: the engine must stay correct, and its memory flat.

Usage: soak.py [--minutes 30] [-m REF] [--context 2048] [--seed N]
Prompts of random length, many of them with a beginning in common, sampled and greedy, several choices,
log-probabilities, scores and logits, more than the queue holds, and some cancelled in mid-answer; with
drafts, the sketch of the head, and two adapters beside none. A part of them is run again alone, on an engine
that reuses nothing, drafts nothing and reads the whole head: every token, number and bit must be the same.
"""

from __future__ import annotations

import argparse
import math
import queue
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gemlet.errors import QueueFullError
from gemlet.infer.adapters import Adapters, LoadedAdapter
from gemlet.infer.engine import Engine, Ticket
from gemlet.infer.requests import (
    AnswerRequest,
    Cancelled,
    Event,
    Failed,
    Outputs,
    PromptRequest,
    Request,
    Token,
)
from gemlet.infer.scheduler import Limits
from gemlet.infer.speculate import AdaptiveSpeculator
from gemlet.machine.memory import resident_bytes
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.model.weights import load
from gemlet.ops.sketch import finish
from gemlet.store.load import sketch_head
from gemlet.store.references import resolve
from gemlet.store.settings import cache_dir
from gemlet.types import Sampling
from tests.adapters import config_of, tensors_of, write_adapter

IN_FLIGHT = 12
WAITING = 6
PREFIX_BYTES = 24 * 2**20
"""Small, so that states are put out all the time and memory has reached its height early."""

ADAPTERS = {"narrow": 4, "wide": 16}
"""Names and ranks."""

SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(temperature=1.0, top_k=64, top_p=0.95),
    Sampling(temperature=0.7, top_k=0, top_p=1.0, min_p=0.05, repetition_penalty=1.1),
)


@dataclass
class Running:
    """A request in the engine, what has come of it, and after how many events it is cancelled."""

    request: Request
    ticket: Ticket | None = None
    events: list[Event] = field(default_factory=list)
    cancel_after: int | None = None
    cancelled: bool = False

    @property
    def open(self) -> int:
        """Choices that have not ended."""
        if any(isinstance(event, (Outputs, Failed)) for event in self.events):
            return 0
        ended = sum(
            isinstance(event, Cancelled) or (isinstance(event, Token) and event.finish is not None)
            for event in self.events
        )
        return (self.request.n if isinstance(self.request, AnswerRequest) else 1) - ended


@dataclass
class Report:
    """What a soak did and found."""

    requests: int = 0
    cancelled: int = 0
    refused: int = 0
    compared: int = 0
    tokens: int = 0
    resident: list[tuple[float, int]] = field(default_factory=list)

    def growth(self) -> int:
        """Bytes by which the last third of the time needed more than the middle third at its highest."""
        end = self.resident[-1][0]
        middle = [size for at, size in self.resident if end / 3 <= at < 2 * end / 3]
        last = [size for at, size in self.resident if at >= 2 * end / 3]
        return max(last) - max(middle) if middle else 0

    def line(self) -> str:
        sizes = [size / 2**20 for _, size in self.resident]
        done = f"{self.requests} requests, {self.tokens} tokens, {self.cancelled} cancelled"
        checked = f"{self.refused} told to wait, {self.compared} compared with single runs"
        memory = f"resident {statistics.median(sizes):.1f} MiB, at most {max(sizes):.1f}"
        return f"{done}, {checked}; {memory}, grown by {self.growth() / 2**20:+.1f}"


class Maker:
    """Random requests. `context`: positions one may take at most. `adapters`: what they choose from."""

    def __init__(
        self,
        config: ModelConfig,
        context: int,
        rng: random.Random,
        adapters: Sequence[LoadedAdapter | None] = (None,),
    ) -> None:
        self.config, self.context, self.rng, self.adapters = config, context, rng, adapters
        self.beginnings = [self._ids(length) for length in (context // 8, context // 3, context // 2)]

    def _ids(self, count: int) -> tuple[int, ...]:
        vocab = self.config.vocab_size
        return tuple(self.rng.randrange(vocab // 4, vocab * 3 // 4) for _ in range(count))

    def make(self) -> Running:
        rng = self.rng
        # Log-uniform: mostly short, now and then as long as the context.
        ids = self._ids(int(math.exp(rng.uniform(0, math.log(self.context // 2)))))
        if rng.random() < 0.4:
            beginning = rng.choice(self.beginnings)
            ids = (beginning[: rng.randint(1, len(beginning))] + ids)[: self.context - 65]
        if rng.random() < 0.2:
            return Running(self._prompt(ids))
        tokens = rng.randint(1, 64)
        logprobs = rng.choice([None, None, 0, 3])
        request = AnswerRequest(
            ids,
            tokens,
            rng.choice(SAMPLINGS),
            seed=rng.getrandbits(32),
            n=rng.choice([1, 1, 1, 2, 3]),
            stop_ids=frozenset(self.config.stop_ids) if rng.random() < 0.5 else frozenset(),
            logprobs=logprobs,
            priority=rng.choice([0, 0, 0, 1, -1]),
            adapter=rng.choice(self.adapters),
        )
        cancel = rng.randint(0, tokens) if rng.random() < 0.3 else None
        return Running(request, cancel_after=cancel)

    def _prompt(self, ids: tuple[int, ...]) -> PromptRequest:
        if len(ids) > 1 and self.rng.random() < 0.5:
            start, adapter = self.rng.randint(1, len(ids) - 1), self.rng.choice(self.adapters)
            return PromptRequest(ids, score_from=start, top=self.rng.choice([0, 2]), adapter=adapter)
        positions = sorted(self.rng.sample(range(len(ids)), min(len(ids), 3)))
        return PromptRequest(ids, logits=tuple(positions))


def soak(
    model: Path, seconds: float, *, context: int = 2048, seed: int = 0, say: Callable[[str], None] = print
) -> Report:
    """Run for so long. AssertionError with the request where anything differs, fails or is lost."""
    loaded = load(model, cache_dir=cache_dir())
    config, rng = loaded.facts.config, random.Random(seed)
    context = min(context, config.context_length)
    crowd, alone = (Decoder(config, loaded.weights) for _ in range(2))
    adapters = [_adapters(decoder, loaded.weights.sha256, seed) for decoder in (crowd, alone)]
    finish(sketch_head(crowd, loaded))
    limits = Limits(crowd.max_rows, sequences=8, waiting=WAITING, bytes=5 * crowd.kv_bytes(context))
    speculator = AdaptiveSpeculator()
    engine = Engine(crowd, context=context, limits=limits, prefix_bytes=PREFIX_BYTES, speculator=speculator)
    single = Single(Engine(alone, context=context, prefix_bytes=0), adapters[1])
    choices = (None, None, *(adapters[0].find(name) for name in ADAPTERS))
    try:
        report = _drive(engine, single, Maker(config, context, rng, choices), seconds, say)
        assert engine.counts() == (0, 0), f"sequences are left: {engine.counts()}"
    finally:
        engine.close()
        single.engine.close()
    # Peaks differ by the states that happen to be held at once; a leak grows with every request.
    allowed = max(8 << 20, 2 * limits.bytes // 5 if limits.bytes else 0)
    assert report.growth() <= allowed, f"memory grew: {report.line()}"
    return report


def _adapters(decoder: Decoder, weights_sha256: str, seed: int) -> Adapters:
    """Random ones of two ranks."""
    adapters, rng = Adapters(decoder, weights_sha256), np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        for name, rank in ADAPTERS.items():
            tensors = tensors_of(decoder.config, rng, rank)
            adapters.load(write_adapter(Path(folder) / name, config_of(rank), tensors, weights_sha256))
    return adapters


@dataclass(frozen=True)
class Single:
    """The engine that a request has to itself, with the same adapters."""

    engine: Engine
    adapters: Adapters

    def run(self, request: Request) -> Running:
        if request.adapter is not None:
            request = replace(request, adapter=self.adapters.find(request.adapter.info.name))
        one, arrived = Running(request), queue.Queue[Event]()
        self.engine.submit(request, arrived.put)
        while one.open:
            one.events.append(arrived.get(timeout=120))
            assert not isinstance(one.events[-1], Failed), f"alone: {one.request}: {one.events[-1]}"
        return one


def _drive(
    engine: Engine, single: Single, maker: Maker, seconds: float, say: Callable[[str], None]
) -> Report:
    report, running, arrived = Report(), list[Running](), queue.Queue[tuple[Running, Event]]()
    began = told = time.monotonic()
    while running or time.monotonic() - began < seconds:
        while len(running) < IN_FLIGHT and time.monotonic() - began < seconds:
            if not _submit(engine, maker.make(), running, arrived):
                report.refused += 1
                break
        one, event = arrived.get(timeout=120)
        one.events.append(event)
        assert not isinstance(event, Failed), f"{one.request}: {event}"
        if one.cancel_after is not None and not one.cancelled and len(one.events) > one.cancel_after:
            assert one.ticket is not None
            one.ticket.cancel(maker.rng.choice([None, 0]))
            one.cancelled = True
        if one.open == 0:
            running.remove(one)
            _finish(one, single, maker.rng, report)
            report.resident.append((time.monotonic() - began, resident_bytes()))
        if time.monotonic() - told > 60:
            told = time.monotonic()
            say(f"{(told - began) / 60:.0f} min: {report.line()}")
    return report


def _submit(
    engine: Engine, one: Running, running: list[Running], arrived: queue.Queue[tuple[Running, Event]]
) -> bool:
    try:
        one.ticket = engine.submit(one.request, lambda event: arrived.put((one, event)))
    except QueueFullError:
        return False
    running.append(one)
    return True


def _finish(one: Running, single: Single, rng: random.Random, report: Report) -> None:
    report.requests += 1
    report.tokens += sum(isinstance(event, Token) for event in one.events)
    report.cancelled += any(isinstance(event, Cancelled) for event in one.events)
    if rng.random() < 0.3:
        report.compared += 1
        expected = single.run(one.request)
        found, wanted = (results(running) for running in (one, expected))
        assert found.keys() <= wanted.keys(), one.request
        for index, values in found.items():
            whole = not any(isinstance(e, Cancelled) and e.index == index for e in one.events)
            same = values == (wanted[index] if whole else wanted[index][: len(values)])
            assert same, f"another result than alone, choice {index} of {one.request}"


def results(one: Running) -> dict[int, list[Any]]:
    """All that a request gave, by choice, in a form that compares bit by bit."""
    found: dict[int, list[Any]] = {}
    for event in one.events:
        if isinstance(event, Token):
            value = (event.token_id, event.logprob, event.top, event.finish)
            found.setdefault(event.index, []).append(value)
        elif isinstance(event, Outputs):
            numbers = event.logprobs, event.greedy, event.top
            found[0] = [event.logits.tobytes(), event.hidden.tobytes(), *numbers]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("-m", "--model", default="embedded")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    report = soak(
        resolve(args.model).path,
        60 * args.minutes,
        context=args.context,
        seed=args.seed,
        say=lambda line: print(line, flush=True),
    )
    print(report.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
