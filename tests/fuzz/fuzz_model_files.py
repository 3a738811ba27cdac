"""Damaged model files may only ever raise typed errors, in little time and memory.

    python tests/fuzz/fuzz_model_files.py --count 200000 [--seed 0] [--only N]

Small synthetic models (GGUF file, Hugging Face folder, packed weights) and adapters are damaged in many ways
and loaded.
Every case follows from the seed and its number; a failing one prints both, and `--only` runs it again alone.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gemlet.errors import GemletError
from gemlet.model.adapters import read_adapter
from gemlet.model.config import ModelConfig
from gemlet.model.weights import load, packed_path
from tests.adapters import config_of, tensors_of, write_adapter
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf, write_tiny_hf

MAX_SECONDS = 5.0
MAX_GROWTH_BYTES = 512 << 20
INTERESTING = [
    0,
    1,
    2,
    7,
    8,
    31,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 62,
    1 << 63,
]
INTERESTING += [(1 << 64) - 1, (1 << 64) - 8, (1 << 64) - 32]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    0.5,
    1e308,
    1 << 31,
    1 << 63,
    10**400,
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
]
WORDS = [b"NaN", b"1e999", b"\\ud800", b"{", b"]", b'"', b"\0", b"\xff", b"9" * 5000, b"[" * 5000]


@dataclass(frozen=True)
class Target:
    """A file to damage, and the model that is loaded afterwards. `cache` is None to pack in memory."""

    name: str
    share: int
    file: Path
    model: Path
    cache: Path | None
    weights: str = "auto"
    adapter: ModelConfig | None = None  # of the base, where `model` is the folder of an adapter


def make_targets(folder: Path) -> list[Target]:
    """Intact models to start from."""
    kinds = {"*": "Q4_0", "token_embd": "Q8_0", "attn_q": "Q5_1", "attn_k": "Q5_0", "ffn_down": "Q6_K"}
    config = tiny_config(layers=1, vocab_size=40, hidden_size=32, intermediate_size=256, head_dim=16)
    hf_config = tiny_config(layers=1, vocab_size=560, hidden_size=8, intermediate_size=8, head_dim=8)
    rng = np.random.default_rng(0)
    gguf, single, sharded, cache = (folder / name for name in ("m.gguf", "single", "sharded", "cache"))
    write_tiny_gguf(gguf, config, rng, kinds, metadata={"gemma3.attention.sliding_window_pattern": [True]})
    write_tiny_gguf(folder / "packed.gguf", config, rng, kinds)
    write_tiny_hf(single, hf_config, rng)
    write_tiny_hf(sharded, hf_config, rng, shards=2, old_style=False, chat_template=CHAT_TEMPLATE)
    load(folder / "packed.gguf", cache_dir=cache)
    packed = packed_path(folder / "packed.gguf", "auto", cache)
    adapter = folder / "adapter"
    patterns = {"rank_pattern": {".*q_proj": 3}, "alpha_pattern": {r"layers\.0\.(mlp|x)\..*": 2}}
    write_adapter(
        adapter,
        config_of(2, exclude_modules=["lm_head"], layers_to_transform=[0], **patterns),
        tensors_of(config, rng, 2) | tensors_of(config, rng, 3, ["attn_q"], dtype="BF16"),
        base="0" * 64,
    )
    return [
        Target("gguf", 50, gguf, gguf, None),
        Target("gguf as int4", 10, gguf, gguf, None, "int4"),
        Target("safetensors", 12, single / "model.safetensors", single, None),
        Target("config.json", 10, single / "config.json", single, None),
        Target("config.json, new style", 6, sharded / "config.json", sharded, None),
        Target("generation_config.json", 4, single / "generation_config.json", single, None),
        Target("tokenizer_config.json", 2, sharded / "tokenizer_config.json", sharded, None),
        Target("index", 3, sharded / "model.safetensors.index.json", sharded, None),
        Target("packed", 3, packed, folder / "packed.gguf", cache),
        Target("adapter", 8, adapter / "adapter_model.safetensors", adapter, None, adapter=config),
        Target("adapter_config.json", 8, adapter / "adapter_config.json", adapter, None, adapter=config),
        Target("gemlet_adapter.json", 2, adapter / "gemlet_adapter.json", adapter, None, adapter=config),
    ]


# --- Damage


def damage(data: bytes, is_json: bool, rng: random.Random) -> bytes:
    """One to four changes."""
    changes: list[Callable[[bytearray, random.Random], None]] = [
        flip,
        overwrite,
        cut,
        repeat,
        insert,
        header_field,
    ]
    if is_json:
        changes = [word, flip, cut]
        if rng.random() < 0.7:
            return json_change(data, rng)
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if result:
            rng.choice(changes)(result, rng)
    return bytes(result)


def place(data: bytearray, rng: random.Random) -> int:
    """Any position, most often in the first part, where counts and lengths are."""
    return rng.randrange(min(len(data), rng.choice([32, 1024, 4096, len(data), len(data)])))


def flip(data: bytearray, rng: random.Random) -> None:
    data[place(data, rng)] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    """A number that is often a limit, in 4 or 8 bytes."""
    at, size = place(data, rng), rng.choice([4, 8])
    number = rng.choice(INTERESTING) & ((1 << 8 * size) - 1)
    data[at : at + size] = number.to_bytes(size, "little")


def header_field(data: bytearray, rng: random.Random) -> None:
    """One of the counts that a file begins with."""
    at = rng.choice([0, 4, 8, 16])
    data[at : at + 8] = struct.pack("<Q", rng.choice([*INTERESTING, rng.randrange(200)]))


def cut(data: bytearray, rng: random.Random) -> None:
    start = place(data, rng)
    del data[start : rng.choice([len(data), start + rng.randrange(1, 64)])]


def repeat(data: bytearray, rng: random.Random) -> None:
    start, length = place(data, rng), rng.randrange(1, 200)
    data[start:start] = data[start : start + length]


def insert(data: bytearray, rng: random.Random) -> None:
    start = place(data, rng)
    data[start:start] = rng.randbytes(rng.randrange(1, 16))


def word(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + rng.randrange(3)] = rng.choice(WORDS)


def json_change(data: bytes, rng: random.Random) -> bytes:
    """Another value, a key less, or a key more, at any depth."""
    whole = json.loads(data)
    inner = whole
    while rng.random() < 0.3 and (deeper := [v for v in inner.values() if isinstance(v, dict) and v]):
        inner = rng.choice(deeper)
    key = rng.choice(list(inner))
    change = rng.randrange(4)
    if change == 0:
        del inner[key]
    elif change == 1:
        inner[rng.choice(["unknown", key + "_", "rope_scaling", "head_dim", "layer_types"])] = rng.choice(
            VALUES
        )
    elif change == 2 and isinstance(inner[key], (int, float)) and not isinstance(inner[key], bool):
        inner[key] = rng.choice(
            [inner[key] + 1, inner[key] * 2, -inner[key], inner[key] / 2, 1 << 24, float("nan")]
        )
    else:
        inner[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()


# --- Running


def outcome(target: Target) -> str:
    """Load a model: "loaded" or the name of a typed error. Anything else is raised."""
    try:
        if target.adapter is not None:
            assert read_adapter(target.model, target.adapter, "0" * 64).parts
        else:
            assert load(target.model, target.weights, cache_dir=target.cache).weights.packed
    except GemletError as error:
        assert str(error)
        return type(error).__name__
    return "loaded"


def run(count: int, seed: int, only: int | None = None) -> Counter[str]:
    """Run cases 0 to count - 1, or one alone; returns how often each outcome occurred."""
    warnings.simplefilter("error")
    folder = Path(
        tempfile.mkdtemp(prefix="gemlet-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    outcomes: Counter[str] = Counter()
    try:
        targets = make_targets(folder)
        intact = {target.file: target.file.read_bytes() for target in targets}
        assert all(outcome(target) == "loaded" for target in targets)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count) if only is None else [only]:
            rng = random.Random(f"{seed} {number}")
            target = rng.choices(targets, [target.share for target in targets])[0]
            target.file.write_bytes(damage(intact[target.file], target.file.suffix == ".json", rng))
            started = time.perf_counter()
            try:
                result = outcome(target)
                seconds = time.perf_counter() - started
                assert seconds < MAX_SECONDS, f"took {seconds:.1f} s"
            except BaseException:
                print(f"case {number} of seed {seed} ({target.name}) failed", file=sys.stderr)
                raise
            outcomes[f"{target.name}: {result}"] += 1
            target.file.write_bytes(intact[target.file])
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert growth < MAX_GROWTH_BYTES, f"memory grew by {growth >> 20} MiB"
    finally:
        shutil.rmtree(folder)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcomes = run(arguments.count, arguments.seed, arguments.only)
    seconds = time.perf_counter() - started
    for name, times in sorted(outcomes.items()):
        print(f"{times:8}  {name}")
    print(f"{sum(outcomes.values())} cases in {seconds:.0f} s: nothing but typed errors")


if __name__ == "__main__":
    main()
