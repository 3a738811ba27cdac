"""A tiny model in a file and examples for it, for tests that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemlet.model.weights import Loaded, load
from gemlet.tune.examples import Example, Pair
from gemlet.tune.job import Listener, Order, train
from gemlet.tune.network import Network
from gemlet.tune.settings import LoraSettings, Settings
from gemlet.tune.train import Result
from tests.synthetic import tiny_config, write_tiny_gguf

CONFIG = tiny_config(layers=2)


def write_model(folder: Path) -> Path:
    path = folder / "model.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(0))
    return path


def opened(path: Path) -> Loaded:
    return load(path, "stored", cache_dir=None)


def examples(count: int, seed: int = 0) -> tuple[Example, ...]:
    """Sequences that can be learned: every token is the one before it and three."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length = int(rng.integers(6, 20))
        ids = (int(rng.integers(CONFIG.vocab_size)) + 3 * np.arange(length)) % CONFIG.vocab_size
        found.append(Example(ids.astype(np.int32), np.arange(length) >= 2, f"train.jsonl:{number + 1}"))
    return tuple(found)


@dataclass(frozen=True)
class Data:
    train: tuple[Example | Pair, ...]
    valid: tuple[Example | Pair, ...] = ()
    sha256: str = "0" * 64


SETTINGS = Settings(
    lora=LoraSettings(rank=4, dropout=0.1), epochs=3, batch_tokens=40, learning_rate=5e-3, seed=1
)


def trained(
    model: Path,
    output: Path,
    settings: Settings = SETTINGS,
    data: Data | None = None,
    listener: Listener | None = None,
    *,
    resume: bool = False,
    available: int | None = None,
) -> tuple[Network, Result]:
    data = data or Data(examples(30), examples(6, seed=1))
    order = Order("tiny", output, settings, {"path": "train.jsonl"}, resume=resume, available=available)
    return train(lambda: opened(model), data, order, listener or Listener())
