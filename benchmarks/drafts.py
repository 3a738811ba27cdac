"""What drafts gain: answers that repeat their input, ordinary text, and the cost of checking several rows.

Usage: drafts.py REPEATING.gguf [COST.gguf] [--rounds 5] [--threads N] [--peer]
REPEATING is a real model: it answers tasks that repeat their input, and writes ordinary text, with and
without drafts in turn, and with --peer llama.cpp decodes as many tokens behind the same prompt. Of COST (by
default the same file; random weights will do) steps of 1 to 17 rows with all their logits are timed, and
what that implies: the speed-up of checking so many at each probability that a drafted token is accepted.
Writes benchmarks/results/drafts-*.json and drafts-steps-*.json: medians over the rounds with the smallest and
largest value; ratios are taken within each round. Every answer with drafts is checked to be the one without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import gemlet
from gemlet.evaluate.engines import Gemlet, LlamaCpp, random_ids
from gemlet.evaluate.record import spread
from gemlet.machine import threads as usable_threads
from gemlet.types import Completion
from results_file import write_result

TOKENS = 256
"""Of an answer at most."""

CHECKED = range(1, 18)
"""Rows of a step: the last token and 0 to 16 drafted ones."""

ACCEPTANCES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)

CODE = '''\
class Account:
    """Money of one customer, in cents."""

    def __init__(self, owner, cents=0):
        self.owner = owner
        self.cents = cents
        self.history = []

    def deposit(self, cents):
        if cents <= 0:
            raise ValueError("a deposit must be positive")
        self.cents += cents
        self.history.append(("deposit", cents))

    def withdraw(self, cents):
        if cents > self.cents:
            raise ValueError("the account does not hold that much")
        self.cents -= cents
        self.history.append(("withdraw", cents))

    def report(self):
        for kind, cents in self.history:
            print(f"{self.owner}: {kind} {cents / 100:.2f}")
'''

PEOPLE = (("Alice", "Paris"), ("Bob", "London"), ("Carla", "Rome"), ("Dmitri", "Oslo"), ("Elena", "Madrid"))
TABLE = json.dumps(
    [{"id": i, "name": n, "city": c, "active": True} for i, (n, c) in enumerate(PEOPLE)], indent=2
)

PROSE = (
    "The lighthouse stood at the end of the point, where the road gave up and the rocks began. Every evening "
    "the keeper climbed the iron stairs, trimmed the lamp and wrote the weather into a book. In forty years "
    "he had missed two nights, both of them for a birth. When the storm came in November he was awake."
)

# Prompts to be continued: so small a model repeats more reliably what has begun than what it is asked for.
REPEATING = {
    "edit a file": (
        f"# account.py\n\n{CODE}\n# account.py, with the class Account renamed to Wallet\n\nclass Wallet:\n",
        "\n# account.py",
    ),
    "fill a JSON": (
        f"Input:\n{TABLE}\nOutput (the same, with the city of Bob changed to Berlin):\n",
        "\nOutput",
    ),
    "quote": (f'The text:\n"{PROSE}"\n\nThe text again, word for word:\n"', '"'),
}

ORDINARY = {
    "story": "Write a short story about a keeper of bees.",
    "explanation": "Explain how a bicycle stays upright.",
    "list": "Which ten things should I take to the mountains?",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("cost", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads().count)
    parser.add_argument("--peer", action="store_true", help="decode with llama.cpp too")
    args = parser.parse_args()
    cost_model = args.cost or args.model

    packages = ["llama-cpp-python"] if args.peer else []
    parts = (
        ("drafts", args.model, packages, lambda: answers(args.model, args.threads, args.rounds, args.peer)),
        ("drafts-steps", cost_model, [], lambda: checking(cost_model, args.threads, args.rounds)),
    )
    for name, model, peers, measure in parts:
        rows = measure()
        settings = {"model": model.name, "threads": args.threads, "rounds": args.rounds}
        path = write_result(name, rows, models=[model], packages=peers, settings=settings)
        for row in rows:
            print(*(f"{k}: {v['median'] if isinstance(v, dict) else v}" for k, v in row.items()), sep="  ")
        print(path)


def answers(path: Path, threads: int, rounds: int, peer: bool) -> list[dict[str, Any]]:
    """Tokens a second of every task, with and without drafts in turn, and of the peer."""
    on, off = (gemlet.load(path, threads=threads, draft=draft) for draft in (True, False))
    other = LlamaCpp(path, threads) if peer else None
    tasks = [*((name, True) for name in REPEATING), *((name, False) for name in ORDINARY)]
    measured: dict[str, dict[str, list[float]]] = {name: {} for name, _ in tasks}
    with on, off:
        for number in range(-1, rounds):  # the first is to warm up, and for the costs of steps to be known
            for name, repeats in tasks:
                order = (on, off) if number % 2 == 0 else (off, on)
                done = {model is on: answer(model, name, repeats, max(0, number)) for model in order}
                if done[True].token_ids != done[False].token_ids:
                    raise SystemExit(f"{name}: the answer with drafts is another one")
                if number >= 0:
                    note(measured[name], done[True], done[False])
                if number >= 0 and other is not None:
                    measured[name].setdefault("llama.cpp, tokens/s", []).append(
                        peer_speed(other, prompt_ids(on, name, repeats), done[False].token_ids)
                    )
            print(f"answers, round {number + 1} of {rounds}", flush=True)
    if other is not None:
        other.close()
    return [row(name, "repeating" if repeats else "ordinary", measured[name]) for name, repeats in tasks]


def prompt_ids(model: Any, name: str, repeats: bool) -> list[int]:
    """The ids a task sends."""
    if repeats:
        return list(model.tokenize(REPEATING[name][0]))
    return list(model.render([{"role": "user", "content": ORDINARY[name]}]))


def answer(model: Any, name: str, repeats: bool, seed: int) -> Completion:
    """Repeating tasks are answered greedily until the copy ends, ordinary ones sampled by the defaults."""
    ids = prompt_ids(model, name, repeats)
    options: dict[str, Any] = (
        {"temperature": 0, "stop": REPEATING[name][1]} if repeats else {"seed": seed, "ignore_eos": True}
    )
    done: Completion = model.generate(ids, max_tokens=TOKENS, **options)
    return done


def note(measured: dict[str, list[float]], with_drafts: Completion, without: Completion) -> None:
    """Add one round."""
    values = {
        "with drafts, tokens/s": with_drafts.timings.decode_tokens_per_s,
        "without, tokens/s": without.timings.decode_tokens_per_s,
        "acceptance": with_drafts.timings.draft_acceptance or 0.0,  # also where nothing was drafted
        "tokens": len(without.token_ids),
    }
    for key, value in values.items():
        if value is not None:
            measured.setdefault(key, []).append(float(value))


def peer_speed(peer: LlamaCpp, prompt: list[int], tokens: tuple[int, ...]) -> float:
    """Decoding the same tokens behind the same prompt, without sampling."""
    peer.prefill(prompt)
    return 1 / statistics.median(peer.decode(tokens[:64]))


def row(name: str, kind: str, measured: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table."""
    fast = measured["with drafts, tokens/s"]
    line: dict[str, Any] = {"answer": name, "kind": kind}
    line |= {key: spread(values) for key, values in measured.items()}
    for key, against in (("against none", "without, tokens/s"), ("against llama.cpp", "llama.cpp, tokens/s")):
        if against in measured:
            line[key] = spread([a / b for a, b in zip(fast, measured[against], strict=True)])
    return line


def checking(path: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of steps with several rows, over those of one, and the speed-up at several acceptances."""
    engine = Gemlet(path, threads, 1024)
    engine.prefill(random_ids(256, seed=1))
    seconds: dict[int, list[float]] = {count: [] for count in CHECKED}
    for number in range(rounds * 3 + 1):
        for count in CHECKED:
            took = engine.check(random_ids(count, seed=number))
            if number:
                seconds[count].append(took)
    engine.close()
    lines = []
    for count in CHECKED:
        ratios = np.divide(seconds[count], seconds[1])
        line = {"rows": count, "seconds": spread(seconds[count]), "over one row": spread(ratios.tolist())}
        for chance in ACCEPTANCES:
            # The token behind the draft comes in any case.
            tokens = sum(chance**i for i in range(count))
            line[f"speed-up at {chance:g}"] = float(tokens / np.median(ratios))
        lines.append(line)
    return lines


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s")
