"""A tiny model, an adapter for it, and held-out data, for tests that evaluate and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemlet.tune.data import Prompt
from gemlet.tune.evaluation import HeldOut
from gemlet.tune.examples import Example, Pair
from tests.adapters import KINDS, config_of, tensors_of, write_adapter
from tests.synthetic import tiny_config, write_tiny_gguf

CONFIG = tiny_config(layers=2, vocab_size=640)


def write_model(folder: Path, seed: int = 0) -> Path:
    path = folder / f"model-{seed}.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(seed))
    return path


def write_lora(folder: Path, size: float) -> Path:
    """A random adapter; with `size` zero its B is, as before the first step of training."""
    tensors = tensors_of(CONFIG, np.random.default_rng(7), kinds=KINDS)
    for name, (kind, shape, data) in tensors.items():
        if ".lora_B." in name:
            values = np.frombuffer(data, "<f4") * np.float32(size)
            tensors[name] = kind, shape, values.tobytes()
    return write_adapter(folder, config_of(), tensors)


def example(rng: np.random.Generator, number: int, begin: tuple[int, ...] = ()) -> Example:
    length = int(rng.integers(8, 20))
    ids = np.array([2, *begin, *rng.integers(494, CONFIG.vocab_size, length)], np.int32)
    learned = np.arange(len(ids)) >= 4
    learned[6] = False  # a hole, as between two turns
    return Example(ids, learned, f"test.jsonl:{number}")


def examples(count: int, seed: int = 0) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(example(rng, number) for number in range(1, count + 1))


def pairs(count: int) -> tuple[Pair, ...]:
    rng = np.random.default_rng(5)
    return tuple(
        Pair(example(rng, n, (500, 501, 502)), example(rng, n, (500, 501, 502))) for n in range(1, count + 1)
    )


def prompts(count: int, answer: str = "no such answer") -> tuple[Prompt, ...]:
    return tuple(Prompt(None, f"the number {n}", (), answer, f"test.jsonl:{n}") for n in range(1, count + 1))


HELD_OUT = HeldOut(examples(30), prompts(10))
