"""Adapters that peft made: against transformers with peft in float32, and the same bits in any company."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model

from gemlet.model.adapters import read_adapter
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.ops.batch import Adapter, Batch, State
from tests.adapters import random_adapter
from tests.packing import packed_weights
from tests.parity.oracle import Oracle, fidelity, rounding_tolerance, run, worst_difference
from tests.parity.real import Real
from tests.parity.test_fidelity import MEAN_KL, TOP1
from tests.parity.test_transformers import REAL_TOLERANCE
from tests.synthetic import tiny_config, tiny_weights

RECIPES: dict[str, dict[str, Any]] = {
    "rank 4, everything": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "rank 16, attention": {"r": 16, "lora_alpha": 16, "target_modules": [f"{x}_proj" for x in "qkvo"]},
    "rank 6, rooted": {"r": 6, "lora_alpha": 4, "use_rslora": True, "target_modules": r".*\.(v|down)_proj"},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "gate_proj", "down_proj"],
        "rank_pattern": {"mlp.gate_proj": 20, r"layers\.0\..*q_proj": 1},
        "alpha_pattern": {"down_proj": 3.5, r"layers\.1\.self_attn\.q_proj": 16},
        "fan_in_fan_out": True,
    },
    "some layers": {
        "r": 8,
        "lora_alpha": 8,
        "target_modules": ["up_proj", "o_proj", "v_proj"],
        "layers_to_transform": [0, 3, 4],
        "exclude_modules": ["o_proj"],
        "init_lora_weights": "gaussian",
    },
}  # fmt: skip


class Adapted:
    """An oracle with an adapter that peft put into it, and the folder that peft saved."""

    def __init__(self, oracle: Oracle, folder: Path, recipe: dict[str, Any], size: float) -> None:
        torch.manual_seed(len(folder.name))
        self.oracle = oracle
        self._base = oracle._model
        peft = get_peft_model(self._base, LoraConfig(**recipe))
        for name, values in peft.named_parameters():
            if "lora_B" in name:  # peft begins with none at all: nothing would be added
                torch.nn.init.normal_(values, std=size)
        peft.save_pretrained(str(folder))
        self._peft: PeftModel = peft

    def close(self) -> None:
        self.oracle._model = self._peft.unload()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "adapter"


CONFIG = tiny_config(num_attention_heads=4, num_key_value_heads=2, sliding_window=8, layers=6)


class WithAdapter:
    """A decoder all of whose steps have an adapter, for measures that know nothing of adapters."""

    def __init__(self, decoder: Decoder, adapter: Adapter) -> None:
        self._decoder = decoder
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, batch: Batch) -> Any:
        adapters = (self._adapter,) * len(batch.states)
        return self._decoder.step(
            Batch(batch.ids, batch.positions, batch.states, batch.rows, batch.logits, batch.hidden, adapters)
        )


def adapted(decoder: Decoder, folder: Path) -> Any:
    return WithAdapter(decoder, decoder.adapter(read_adapter(folder, decoder.config).parts))


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_models_equal_peft(folder: Path, recipe: str) -> None:
    rng = np.random.default_rng(3)
    tensors, ids = tiny_weights(CONFIG, rng), rng.integers(0, CONFIG.vocab_size, 60).tolist()
    oracle = Oracle.of_config(CONFIG, tensors)
    plain = oracle.logits(oracle.hidden(ids))
    tolerance = rounding_tolerance(CONFIG, plain)
    decoder = Decoder(CONFIG, packed_weights(tensors), executor="reference")
    with_peft = Adapted(oracle, folder, RECIPES[recipe], size=0.1)
    assert np.abs(oracle.logits(oracle.hidden(ids)) - plain).max() > 1000 * tolerance  # it does something
    assert worst_difference(adapted(decoder, folder), oracle, ids) <= tolerance
    assert worst_difference(decoder, oracle, ids) > 1000 * tolerance
    with_peft.close()
    assert worst_difference(decoder, oracle, ids) <= tolerance


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
def test_the_real_model_equals_peft(real: Real, real_oracle: Oracle, folder: Path) -> None:
    """The reference to float32 rounding; the native decoder stays as close as without an adapter."""
    ids = real.ids("prose", 256)
    recipe = RECIPES["rank 4, everything"] | {"rank_pattern": {"down_proj": 16}}
    with_peft = Adapted(real_oracle, folder, recipe, size=0.01)
    try:
        reference = Decoder(real.config, real.weights, executor="reference")
        assert worst_difference(adapted(reference, folder), real_oracle, ids) <= REAL_TOLERANCE
        native = Decoder(real.config, real.weights)
        measured = fidelity(run(adapted(native, folder), ids), real_oracle, ids)
        assert measured.mean_kl <= MEAN_KL, measured
        assert measured.top1 >= TOP1, measured
        bare = fidelity(run(native, ids), real_oracle, ids)
        assert bare.mean_kl > 10 * MEAN_KL  # the adapter changes what is said
        native.close()
    finally:
        with_peft.close()


# --- The same bits


KINDS = {"token_embd": "Q8_0", "attn_v": "Q6_K", "attn_q": "Q4_0", "ffn_up": "BF16", "*": "Q4_0"}
BITS = tiny_config(
    hidden_size=256,
    intermediate_size=1280,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=24,
    layers=3,
)
Rows = NDArray[np.float32]


def company(
    decoder: Decoder, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None], seed: int
) -> list[Rows]:
    """The logits of every position of every prompt, fed together in pieces and orders that the seed draws."""
    rng = np.random.default_rng(seed)
    states: list[State] = [decoder.new_state() for _ in prompts]
    got: list[list[Rows]] = [[] for _ in prompts]
    while left := [i for i, ids in enumerate(prompts) if states[i].length < len(ids)]:
        chosen = rng.permutation(left)[: rng.integers(1, len(left) + 1)].tolist()
        most = rng.choice([1, 3, 30])
        parts = []
        for i in chosen:
            start = states[i].length
            parts.append((states[i], prompts[i][start : start + rng.integers(1, most + 1)]))
        batch = Batch.of(parts, logits="all", adapters=[adapters[i] for i in chosen])
        rows = np.split(decoder.step(batch).logits, np.cumsum(batch.rows)[:-1])
        for i, some in zip(chosen, rows, strict=True):
            got[i].append(some)
    return [np.concatenate(some) for some in got]


def alone(decoder: Decoder, ids: Sequence[int], adapter: Adapter | None) -> Rows:
    batch = Batch.of(
        [(decoder.new_state(), ids)], logits="all", adapters=() if adapter is None else (adapter,)
    )
    return decoder.step(batch).logits


def folders(config: ModelConfig, under: Path) -> list[Path]:
    some = ["attn_q", "attn_output", "ffn_up", "ffn_down"]
    return [
        random_adapter(under / "p", config, 1, rank=4),
        random_adapter(under / "q", config, 2, rank=20, kinds=some),
    ]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Decoder, list[Adapter]]]]:
    """With 1 and 2 threads, each with both adapters."""
    weights = packed_weights(tiny_weights(BITS, np.random.default_rng(0)), KINDS)
    read = [read_adapter(f, BITS) for f in folders(BITS, tmp_path_factory.mktemp("adapters"))]
    made = [Decoder(BITS, weights, threads=count) for count in (1, 2)]
    yield [(decoder, [decoder.adapter(file.parts) for file in read]) for decoder in made]
    for decoder in made:
        decoder.close()


@pytest.mark.parametrize("seed", range(6))
def test_company_changes_no_bit(decoders: list[tuple[Decoder, list[Adapter]]], seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    prompts = [rng.integers(0, BITS.vocab_size, rng.integers(1, 90)).tolist() for _ in range(7)]
    chosen = rng.integers(-1, 2, len(prompts)).tolist()  # -1: none
    (one, of_one), (two, of_two) = decoders
    expected = [
        alone(one, ids, of_one[i] if i >= 0 else None) for ids, i in zip(prompts, chosen, strict=True)
    ]
    got = company(two, prompts, [of_two[i] if i >= 0 else None for i in chosen], seed)
    for some, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(some, other)


def test_adapters_change_what_comes_out(decoders: list[tuple[Decoder, list[Adapter]]]) -> None:
    """Equality of what nothing was added to would prove nothing."""
    decoder, (p, q) = decoders[0]
    ids = list(range(40))
    bare, with_p, with_q = (alone(decoder, ids, adapter) for adapter in (None, p, q))
    for first, second in ((bare, with_p), (bare, with_q), (with_p, with_q)):
        assert np.abs(first - second).max(axis=1).min() > 1e-3 * np.abs(first).max()


def test_native_follows_the_reference(decoders: list[tuple[Decoder, list[Adapter]]], tmp_path: Path) -> None:
    """What an adapter adds is computed in float32: it brings no rounding of its own worth speaking of."""
    weights = packed_weights(tiny_weights(BITS, np.random.default_rng(0)), KINDS)
    reference = Decoder(BITS, weights, executor="reference")
    ids = np.random.default_rng(5).integers(0, BITS.vocab_size, 80).tolist()

    def error(number: int | None) -> float:
        folder = None if number is None else folders(BITS, tmp_path)[number]
        theirs = None if folder is None else reference.adapter(read_adapter(folder, BITS).parts)
        exact = alone(reference, ids, theirs)
        got = alone(decoders[0][0], ids, None if number is None else decoders[0][1][number])
        return float(np.sqrt(np.mean((exact - got) ** 2) / np.mean(exact**2)))

    bare = error(None)
    assert error(0) <= 1.5 * bare and error(1) <= 1.5 * bare
