"""What a constraint costs: decode speed with a JSON schema and without, alternating, and its parts.

Usage: constrained.py MODEL.gguf… [--rounds 5] [--threads N] [--tokens 160]
Each model (random weights will do) decodes a list of records greedily and sampled, with drafts and without:
free, free but with the whole head read for every token (as a constraint needs it), and held to a schema. A
round decodes all three behind the same prompt in turn; ratios are taken within a round. Also of the first
model: the processor time of a mask, of text that is looked for as forced, and of compiling.
Writes benchmarks/results/constrained-*.json and constrained-parts-*.json: medians over the rounds with the
smallest and largest value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gemlet
from gemlet.evaluate.record import spread
from gemlet.infer.constrain import Constraints
from gemlet.infer.response_format import Shape, shape_of
from gemlet.machine import threads as usable_threads
from results_file import write_result

RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 3},
        "kind": {"enum": ["person", "company"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": RECORD, "minItems": 40}
FORMAT = {"type": "json_schema", "json_schema": {"name": "records", "schema": SCHEMA}}
PROMPT = "A JSON list of forty persons and companies with name, age, tags and kind: "
TEXT = '[{"name":"Alice Cooper","age":72,"tags":["rock","shock","stage"],"kind":"person"},{"name":"'

WAYS: dict[str, dict[str, Any]] = {
    "free": {"ignore_eos": True},
    "free, whole head": {"ignore_eos": True, "logit_bias": {0: 0.0}},
    "held to a schema": {"response_format": FORMAT},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads().count)
    parser.add_argument("--tokens", type=int, default=160)
    args = parser.parse_args()
    lines, parts = [], []
    for path in args.models:
        for drafts in (True, False):
            with gemlet.load(path, threads=args.threads, context=1024, draft=drafts) as model:
                for temperature in (0.0, 1.0):
                    speeds = decoding(model, drafts, temperature, args.rounds, args.tokens)
                    lines.append(row(path.stem, drafts, temperature, speeds))
                    print(lines[-1], flush=True)
                if drafts and not parts:
                    parts = costs(model, args.rounds)
    settings = {"threads": args.threads, "rounds": args.rounds, "tokens": args.tokens}
    print(write_result("constrained", lines, models=args.models, packages=["llguidance"], settings=settings))
    first = args.models[:1]
    print(write_result("constrained-parts", parts, models=first, packages=["llguidance"], settings=settings))


def decoding(
    model: gemlet.Model, drafts: bool, temperature: float, rounds: int, tokens: int
) -> dict[str, list[float]]:
    """Tokens a second of each way; the first round warms up."""
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(-1, rounds):
        ways = list(WAYS.items())
        for way, options in ways if number % 2 else reversed(ways):
            asked = {"temperature": temperature, "seed": number, "max_tokens": tokens, **options}
            speed = (mean_speed if drafts else median_speed)(model, asked)
            if number >= 0:
                speeds[way].append(speed)
    return speeds


def mean_speed(model: gemlet.Model, asked: dict[str, Any]) -> float:
    """Over the whole answer: with drafts a token takes no time or a step's."""
    speed = model.generate(PROMPT, **asked).timings.decode_tokens_per_s
    assert speed is not None
    return float(speed)


def median_speed(model: gemlet.Model, asked: dict[str, Any]) -> float:
    """From the median time between tokens, which what else runs on the machine disturbs less."""
    times = [time.perf_counter() for _ in model.generate(PROMPT, stream=True, **asked)]
    return 1 / statistics.median([after - before for before, after in pairwise(times)])


def row(model: str, drafts: bool, temperature: float, speeds: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table: tokens a second, and the constrained ones against the others."""
    held = speeds["held to a schema"]
    line: dict[str, Any] = {
        "model": model,
        "drafts": "yes" if drafts else "no",
        "sampled": "no" if temperature == 0 else "yes",
    }
    line |= {f"{way}, tokens/s": spread(values) for way, values in speeds.items()}
    for way in ("free", "free, whole head"):
        line[f"held / {way}"] = spread([a / b for a, b in zip(held, speeds[way], strict=True)])
    return line


def costs(model: gemlet.Model, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of processor time of the parts."""
    shape = shape_of(FORMAT, None, None)
    assert shape is not None
    began = time.thread_time()
    constraints = Constraints(model.tokenizer, model.config.stop_ids)
    constraints.compile(Shape("regex", "a", "regex"))  # reads the vocabulary
    vocabulary = time.thread_time() - began
    ids = model.tokenize(TEXT, bos=False)
    compiling, masks, forced = [], [], []
    for number in range(rounds):
        began = time.thread_time()
        text = shape.text.replace('"maxLength":40', f'"maxLength":{40 + number}')  # not one that is known
        matcher = constraints.compile(Shape(shape.kind, text, shape.parameter)).matcher(model.config.stop_ids)
        compiling.append(time.thread_time() - began)
        for token in ids:
            began = time.thread_time()
            matcher.forced()
            forced.append(time.thread_time() - began)
            began = time.thread_time()
            matcher.look_ahead(())
            masks.append(time.thread_time() - began)
            matcher.allowed()
            matcher.accept(token)
    measured = {
        "vocabulary, once": [vocabulary],
        "compiling the schema": compiling,
        "looking for forced text, a token": forced,
        "mask of a token": masks,
    }
    return [{"part": part, "ms": spread([1000 * s for s in seconds])} for part, seconds in measured.items()]


if __name__ == "__main__":
    main()
