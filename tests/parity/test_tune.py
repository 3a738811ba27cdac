"""Losses and gradients of training: against transformers with peft in float32, without our shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model

from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES
from gemlet.model.weights import load
from gemlet.tune import attention, loss
from gemlet.tune.examples import Example
from gemlet.tune.network import Batch, Network
from gemlet.tune.settings import LoraSettings
from tests.llama_models import WORDS, save_gguf, tiny_model
from tests.packing import packed_weights
from tests.parity.oracle import Oracle
from tests.parity.real import Real
from tests.synthetic import hf_name, tiny_config, tiny_weights

CONFIG = tiny_config(num_attention_heads=4, num_key_value_heads=2, sliding_window=8, layers=6)
LORA = LoraSettings(rank=4, alpha=8)
Gradients = Mapping[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")


def tolerance(config: ModelConfig) -> float:
    """How far two float32 gradients may be apart, as a share of the largest element.

    As tests/parity/oracle.py derives it for logits, and the way back has twice the operations of the way
    there.
    """
    longest = max(config.hidden_size, config.intermediate_size, config.query_width)
    return float(2 * 2.0**-24 * longest**0.5 * 3 * (16 * config.num_layers + 3))


def example(rng: np.random.Generator, length: int, vocab: int) -> Example:
    """Random ids of which about half are learned, the last one always."""
    learned = rng.random(length) < 0.5
    learned[0], learned[-1] = False, True
    return Example(rng.integers(0, vocab, length, dtype=np.int32), learned, "test")


def started(network: Network, seed: int = 5) -> Network:
    """An adapter that does something: `b` is not zero any more."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.parameters.items():
        if name.endswith(".b"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network


def ours(network: Network, items: Sequence[Example]) -> tuple[NDArray[np.float32], Gradients]:
    losses = network.losses(Batch.of([(item.ids, item.learned) for item in items]))
    losses.sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.parameters.items() if p.grad is not None}
    for parameter in network.parameters.values():
        parameter.grad = None
    return losses.detach().numpy(), gradients


def theirs(
    plain: Any, network: Network, items: Sequence[Example], lora: LoraSettings
) -> tuple[NDArray[np.float32], Gradients]:
    """One sequence at a time, whole logits, plain cross-entropy, peft's own modules around `plain`."""
    recipe = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.rooted, target_modules="all-linear"
    )
    model = get_peft_model(plain, recipe).train()
    values = dict(model.named_parameters())
    config = network.config
    rules = FAMILIES[config.family].tensor_rules(config.num_layers, config.tie_word_embeddings)
    names = {}
    for name in network.adapted:
        stem = f"base_model.model.{rules[name][0]}"
        for side in "ab":
            names[f"{name}.{side}"] = key = f"{stem}.lora_{side.upper()}.default.weight"
            values[key].data = network.parameters[f"{name}.{side}"].detach().clone()
    losses = []
    for item in items:
        logits = model(input_ids=torch.from_numpy(item.ids[None].astype(np.int64)), use_cache=False).logits[0]
        rows = np.flatnonzero(item.learned)
        labels = torch.from_numpy(item.ids[rows].astype(np.int64))
        losses.append(torch.nn.functional.cross_entropy(logits[rows - 1], labels, reduction="none"))
    torch.cat(losses).sum().backward()
    gradients = {ours: values[key].grad.clone() for ours, key in names.items()}
    model.unload()
    return torch.cat(losses).detach().numpy(), gradients


def assert_same(found: Gradients, expected: Gradients, allowed: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        difference = float((found[name] - gradient).abs().max())
        assert difference <= allowed * largest, f"{name}: {difference / largest:.2e}"


@pytest.mark.parametrize("rooted", [False, True])
def test_tiny_losses_and_gradients_equal_peft(rooted: bool) -> None:
    rng = np.random.default_rng(1)
    tensors = tiny_weights(CONFIG, rng)
    lora = LoraSettings(rank=4, alpha=8, rooted=rooted)
    network = started(Network(CONFIG, packed_weights(tensors), dtype=torch.float32, lora=lora))
    items = [example(rng, length, CONFIG.vocab_size) for length in (40, 3, 17, 8, 2)]
    found, gradients = ours(network, items)
    expected, exact = theirs(Oracle.of_config(CONFIG, tensors)._model, network, items, lora)
    assert np.abs(found - expected).max() <= tolerance(CONFIG) * np.abs(expected).max()
    assert_same(gradients, exact, tolerance(CONFIG))


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "qwen3"])
def test_other_families_equal_peft(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    save_gguf(tmp_path / "model.gguf", model, WORDS[kind])
    loaded = load(tmp_path / "model.gguf", "stored", cache_dir=None)
    config = loaded.facts.config
    network = started(Network(config, loaded.weights, dtype=torch.float32, lora=LORA))
    rng = np.random.default_rng(6)
    items = [example(rng, length, config.vocab_size) for length in (30, 5, 12)]
    found, gradients = ours(network, items)
    expected, exact = theirs(model.float(), network, items, LORA)
    assert np.abs(found - expected).max() <= tolerance(config) * np.abs(expected).max()
    assert_same(gradients, exact, tolerance(config))


def test_full_gradients_equal_transformers() -> None:
    rng = np.random.default_rng(2)
    tensors = tiny_weights(CONFIG, rng)
    network = Network(CONFIG, packed_weights(tensors), dtype=torch.float32)
    items = [example(rng, length, CONFIG.vocab_size) for length in (30, 12)]
    _, gradients = ours(network, items)
    model = Oracle.of_config(CONFIG, tensors)._model
    for item in items:
        ids = torch.from_numpy(item.ids.astype(np.int64))
        logits, rows = model(input_ids=ids[None], use_cache=False).logits[0], np.flatnonzero(item.learned)
        torch.nn.functional.cross_entropy(logits[rows - 1], ids[rows], reduction="sum").backward()
    values = dict(model.named_parameters())
    assert_same(gradients, {name: values[hf_name(name)].grad for name in gradients}, tolerance(CONFIG))


def test_packing_chunks_and_recomputing_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences alone or together, logits whole or a few rows at a time, attention in other parts."""
    rng = np.random.default_rng(3)
    weights = packed_weights(tiny_weights(CONFIG, rng))
    network = started(Network(CONFIG, weights, dtype=torch.float32, lora=LORA))
    items = [example(rng, length, CONFIG.vocab_size) for length in (40, 3, 17, 8, 2, 29)]
    expected, exact = ours(network, items)
    alone = [ours(network, [item]) for item in items]
    summed = {name: torch.stack([own[name] for _, own in alone]).sum(0) for name in exact}
    assert np.abs(np.concatenate([own for own, _ in alone]) - expected).max() <= tolerance(CONFIG) * 10
    assert_same(summed, exact, tolerance(CONFIG))
    monkeypatch.setattr(loss, "LOGITS", 7 * CONFIG.vocab_size)
    monkeypatch.setattr(loss, "SOFTMAX_ROWS", 3)
    monkeypatch.setattr(attention, "ROWS", 5)
    network.recompute = True
    found, gradients = ours(network, items)
    assert np.abs(found - expected).max() <= tolerance(CONFIG) * np.abs(expected).max()
    assert_same(gradients, exact, tolerance(CONFIG))


@pytest.mark.parametrize("kinds", ["Q4_0", "Q8_0", "Q4_1"])
def test_a_quantised_base_is_the_same_values(kinds: str) -> None:
    """The blocks as stored, made dense as they are used, against the same values held dense."""
    config = tiny_config(hidden_size=64, intermediate_size=96, layers=2)
    rng = np.random.default_rng(4)
    weights = packed_weights(tiny_weights(config, rng), kinds)
    items = [example(rng, 20, config.vocab_size)]
    dense = started(Network(config, weights, dtype=torch.float32, lora=LORA))
    stored = started(Network(config, weights, dtype=torch.float32, lora=LORA, base="stored"))
    assert stored.nbytes < dense.nbytes
    (expected, exact), (found, gradients) = ours(dense, items), ours(stored, items)
    assert np.array_equal(found, expected)
    assert all(torch.equal(gradients[name], exact[name]) for name in exact)


def test_the_real_model_equals_peft(real: Real, real_oracle: Oracle) -> None:
    """Real weights, real text, a window that is passed, two sequences together."""
    ids = np.array(real.ids("prose", 560), np.int32)
    learned = np.zeros(len(ids), bool)
    learned[520:550] = True
    short = Example(ids[:50].copy(), np.arange(50) >= 30, "short")
    items = [Example(ids, learned, "long"), short]
    network = started(Network(real.config, real.weights, dtype=torch.float32, lora=LORA))
    found, gradients = ours(network, items)
    expected, exact = theirs(real_oracle._model, network, items, LORA)
    assert np.abs(found - expected).max() <= tolerance(real.config) * np.abs(expected).max()
    assert_same(gradients, exact, tolerance(real.config))
