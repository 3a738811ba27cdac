"""Many clients of `gemlet serve` at once: nothing may be lost, memory must stay flat, and how long they wait.

Usage: load.py [MODEL] [--minutes 10] [--clients 64] [--rounds 5]
First the clients, each in a loop of random requests: streams and whole answers, some left in mid-answer, some
read slowly, long prompts, bodies that are too large or wrong, embeddings. Every request must end as it has
to; a part of the prompts comes again, and must have the same answer. Then 8 clients beside the library in a
process of its own, in turns: what the server costs. Writes benchmarks/results/load-*.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gemlet.evaluate.record import spread
from gemlet.store.embedded import embedded_model
from gemlet.store.settings import cache_dir
from results_file import write_result

WORDS = [
    "sea",
    "light",
    "stone",
    "river",
    "green",
    "paper",
    "seven",
    "house",
    "under",
    "north",
    "winter",
    "glass",
    "number",
    "open",
    "garden",
    "table",
]
KINDS = {
    "stream": 50, "whole": 12, "left": 12, "slow": 6, "long prompt": 6, "too large": 3, "wrong": 4,
    "embedding": 4, "tokenize": 3,
}  # fmt: skip
"""Requests of a hundred."""
REPEATED = 40
"""Requests that come again and again, with a seed: their answers are compared."""
STREAMS = 8
PARALLEL = {"prompt": 128, "answer": 96}
"""Tokens of the requests that server and library are compared by."""


@dataclass
class Tally:
    """What has come of the requests. Seconds."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: dict[int, str] = field(default_factory=dict)
    compared: int = 0

    def compare(self, number: int, text: str) -> None:
        """The same request has the same answer, whatever ran beside it."""
        if number in self.answers:
            self.compared += 1
            if self.answers[number] != text:
                self.wrong.append(f"request {number} was answered differently")
        self.answers[number] = text


@contextmanager
def serving(model: Path) -> Iterator[tuple[str, int]]:
    """A server on a free port: its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gemlet", "serve", "-m", str(model), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}")
            time.sleep(0.1)
        yield url, server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def text_of(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def body_of(rng: random.Random, kind: str) -> tuple[int | None, dict[str, Any]]:
    """A chat request, and its number if it is one that comes again."""
    number = rng.randrange(REPEATED) if kind in ("stream", "whole", "slow") and rng.random() < 0.4 else None
    own = rng if number is None else random.Random(number)
    words = own.randint(600, 1800) if kind == "long prompt" else own.randint(2, 120)
    return number, {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": text_of(own, words)}],
        "max_tokens": own.randint(1, 64),
        "seed": own.randrange(2**31),
        "temperature": own.choice([0.0, 0.7, 1.0]),
        "n": 2 if own.random() < 0.05 else 1,
    }


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream. ValueError for one that ends without [DONE]."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line[6:])
    raise ValueError("the stream ended without [DONE]")


async def stream(http: httpx.AsyncClient, rng: random.Random, kind: str, tally: Tally) -> str:
    """Read a stream; how it ended."""
    number, body = body_of(rng, kind)
    stay = rng.randint(0, 20) if kind == "left" else None
    began, last, text, finished = time.perf_counter(), 0.0, ["", ""], 0
    async with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return str(answer.status_code)
        read = 0
        async for event in events(answer):
            if "error" in event:
                raise ValueError(event["error"]["message"])
            (choice,) = event["choices"]
            finished += choice["finish_reason"] is not None
            if content := choice["delta"].get("content"):
                now = time.perf_counter()
                (tally.between if read else tally.first).append(now - (last if read else began))
                last, read = now, read + 1
                tally.tokens += 1
                text[choice["index"]] += content
            if stay is not None and read >= stay:
                return "left"
            if kind == "slow":
                await asyncio.sleep(rng.random())
                last = time.perf_counter()
    if finished != body["n"]:
        raise ValueError(f"{finished} of {body['n']} choices ended")
    if number is not None:
        tally.compare(number, json.dumps(text[: body["n"]]))
    return "answered"


async def whole(http: httpx.AsyncClient, rng: random.Random, tally: Tally) -> str:
    number, body = body_of(rng, "whole")
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        return str(answer.status_code)
    told = answer.json()
    tally.tokens += told["usage"]["completion_tokens"]
    if number is not None:
        tally.compare(number, json.dumps([choice["message"]["content"] for choice in told["choices"]]))
    return "answered"


async def other(http: httpx.AsyncClient, rng: random.Random, kind: str) -> str:
    """What is no answer: how it ended, "refused" where it had to be."""
    if kind == "too large":
        answer = await http.post("/v1/chat/completions", content=b" " * (9 << 20))
    elif kind == "wrong":
        answer = await http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": [], "n": "x"})
    elif kind == "embedding":
        texts = [text_of(rng, rng.randint(1, 60)) for _ in range(rng.randint(1, 4))]
        answer = await http.post("/v1/embeddings", json={"model": "gpt-4o", "input": texts})
    else:
        answer = await http.post("/tokenize", json={"content": text_of(rng, 200)})
    expected = {"too large": 413, "wrong": 400}.get(kind, 200)
    if answer.status_code == 429:
        return "429"
    if answer.status_code != expected:
        raise ValueError(f"{kind}: {answer.status_code} instead of {expected}")
    return "answered" if expected == 200 else "refused"


async def client(url: str, seed: int, until: float, tally: Tally) -> None:
    """One after the other, until the time is over. A full queue is waited for."""
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        while time.monotonic() < until:
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            try:
                if kind in ("stream", "left", "slow", "long prompt"):
                    how = await stream(http, rng, kind, tally)
                else:
                    how = await (whole(http, rng, tally) if kind == "whole" else other(http, rng, kind))
            except Exception as error:
                tally.wrong.append(f"{kind}: {type(error).__name__}: {error}")
                how = "lost"
            tally.ended[how] += 1
            if how == "429":
                await asyncio.sleep(1)


def resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def crowd(url: str, pid: int, clients: int, minutes: float, tally: Tally) -> list[float]:
    """All clients; resident MiB of the server, every five seconds."""
    until = time.monotonic() + 60 * minutes
    tasks = [asyncio.create_task(client(url, seed, until, tally)) for seed in range(clients)]
    memory: list[float] = []
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=5)
        memory.append(resident_mib(pid))
        if len(memory) % 12 == 0:
            print(f"{len(memory) / 12:.0f} min: {dict(tally.ended)}, {memory[-1]:.0f} MiB", file=sys.stderr)
    await asyncio.gather(*tasks)
    return memory


def prompts(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [
        [2, *(rng.randrange(1000, 200_000) for _ in range(PARALLEL["prompt"] - 1))] for _ in range(STREAMS)
    ]


OPTIONS = {
    "max_tokens": PARALLEL["answer"],
    "ignore_eos": True,
    "temperature": 1.0,
    "seed": 1,
    "draft": False,
}


async def of_server(http: httpx.AsyncClient, seed: int) -> float:
    """Tokens per second of all clients together."""

    async def one(ids: list[int]) -> int:
        body = {"model": "gpt-4o", "prompt": ids, "stream": True} | OPTIONS
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            return sum([1 async for event in events(answer) if event["choices"][0]["finish_reason"] is None])

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(one, prompts(seed)))) + STREAMS
    assert tokens == STREAMS * PARALLEL["answer"], tokens
    return tokens / (time.perf_counter() - began)


def library(model: Path, orders: Any) -> None:
    """The engine alone, in a process of its own: for each seed that comes, tokens per second."""
    import gemlet

    async def one(open_model: Any, ids: list[int]) -> int:
        return sum([1 async for _ in open_model.agenerate(ids, stream=True, **OPTIONS)])

    async def all_of(open_model: Any, seed: int) -> float:
        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(open_model, ids) for ids in prompts(seed))))
        assert tokens == STREAMS * PARALLEL["answer"], tokens
        return tokens / (time.perf_counter() - began)

    with gemlet.load(model) as opened:
        while (seed := orders.recv()) is not None:
            orders.send(asyncio.run(all_of(opened, seed)))


async def beside_the_library(url: str, model: Path, rounds: int) -> dict[str, list[float]]:
    """Tokens per second of both, in turns; the first round is not counted."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=library, args=(model, there), daemon=True)
    process.start()
    speeds: dict[str, list[float]] = {"server": [], "library": []}
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        for seed in range(rounds + 1):
            here.send(seed)
            alone = await asyncio.to_thread(here.recv)
            served = await of_server(http, seed)
            if seed:
                speeds["library"].append(alone)
                speeds["server"].append(served)
    here.send(None)
    process.join()
    return speeds


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_s": round(cuts[49], 4), "p99_s": round(cuts[98], 4), "max_s": round(max(seconds), 3)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = args.model or embedded_model(cache_dir())
    tally = Tally()
    with serving(model) as (url, pid):
        began = time.monotonic()
        memory = asyncio.run(crowd(url, pid, args.clients, args.minutes, tally))
        seconds = time.monotonic() - began
        speeds = asyncio.run(beside_the_library(url, model, args.rounds))
    third = len(memory) // 3
    early, late = statistics.median(memory[third : 2 * third]), statistics.median(memory[-third:])
    crowd_row = {
        "work": f"{args.clients} clients",
        "seconds": round(seconds),
        "ended": dict(tally.ended),
        "wrong": tally.wrong[:20],
        "compared": tally.compared,
        "tokens_per_s": round(tally.tokens / seconds, 1),
        "first_token": percentiles(tally.first),
        "between_tokens": percentiles(tally.between),
        "resident_mib": {"second third": round(early), "last third": round(late), "most": round(max(memory))},
    }
    spreads = {name: spread(values) for name, values in speeds.items()}
    share = statistics.median(a / b for a, b in zip(speeds["server"], speeds["library"], strict=True))
    pair_row = {"work": f"{STREAMS} clients", "tokens_per_s": spreads, "server_of_library": round(share, 3)}
    path = write_result(
        "load",
        [crowd_row, pair_row],
        models=[model],
        packages=["fastapi", "uvicorn", "httpx"],
        settings={"minutes": args.minutes, "clients": args.clients, "kinds": KINDS, **PARALLEL},
    )
    print(json.dumps([crowd_row, pair_row], indent=1))
    print(f"written to {path.name}", file=sys.stderr)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
