"""Decoders on the native executor: instruction sets agree with the reference, states return bit by bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.errors import StateError
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Weights
from gemlet.ops.batch import Batch, State
from gemlet.ops.native import instruction_sets
from tests.packing import packed_weights
from tests.states import restore, save
from tests.synthetic import tiny_config, tiny_weights

SETS = instruction_sets()[::-1]  # the best last

MIXED = {
    "token_embd": "Q8_0",
    "attn_q": "Q4_0",
    "attn_k": "Q6_K",
    "attn_v": "Q5_K",
    "attn_output": "Q4_1",
    "ffn_gate": "Q4_K",
    "ffn_up": "Q5_1",
    "ffn_down": "Q5_0",
}
CONFIG = tiny_config(
    layers=6, hidden_size=256, intermediate_size=512, head_dim=64, num_attention_heads=4, sliding_window=24
)
ODD = tiny_config(layers=6, hidden_size=52, intermediate_size=76, head_dim=20, num_attention_heads=3)
IDS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, 300)


def models() -> dict[str, tuple[ModelConfig, Weights]]:
    rng = np.random.default_rng(0)
    mixed, odd = tiny_weights(CONFIG, rng), tiny_weights(ODD, rng)
    floats = {"*": "F32", "attn_q": "F16", "ffn_up": "BF16", "attn_output": "BF16", "token_embd": "F16"}
    return {
        "blocks": (CONFIG, packed_weights(mixed, MIXED)),
        "dense": (ODD, packed_weights(odd, floats)),
    }


MODELS = models()


def all_logits(decoder: Decoder, state: State, ids: NDArray[Any]) -> NDArray[np.float32]:
    """Of every position, in steps of 96."""
    parts = [
        decoder.step(Batch.of([(state, ids[start : start + 96])], logits="all")).logits
        for start in range(0, len(ids), 96)
    ]
    return np.concatenate(parts)


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Root mean square of the difference, over that of what is expected."""
    difference = got.astype(np.float64) - expected
    return float(np.sqrt((difference**2).mean() / (expected.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("name", ["blocks", "dense"])
def test_every_instruction_set_agrees_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float products differ in the order of their sums only, by some 2^-22; now and then that moves a key or
    value across a step of the cache, by 2^-11 of it: a part in a thousand of them would be 2^-16, times 12.

    Blocks round their inputs to 127 steps of a block's largest but one, about 2.5 times the root mean square:
    an error of 2.5 / 127 / sqrt(12), 0.6 % of each product. The residual stream adds that of 12 sublayers,
    and each of them carries on what it is given: sqrt(12) * 0.6 % = 2 %, times 2.
    """
    config, weights = MODELS[name]
    reference = Decoder(config, weights, executor="reference", cache_type="float16")
    expected = all_logits(reference, reference.new_state(), IDS)
    bound = 0.04 if name == "blocks" else 2e-4
    found = {}
    for isa in SETS:
        monkeypatch.setenv("GEMLET_ISA", isa)
        decoder = Decoder(config, weights, threads=2)
        assert decoder.instruction_set == isa
        found[isa] = all_logits(decoder, decoder.new_state(), IDS)
        assert relative_error(found[isa], expected) < bound, isa
        decoder.close()
    # Fused and separate rounding may move a value across a step of the next quantisation, no more.
    for isa in SETS[1:]:
        assert relative_error(found[isa], found[SETS[0]]) < bound / 2


@pytest.mark.parametrize("isa", SETS)
def test_states_go_back_branch_and_return_bit_by_bit(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMLET_ISA", isa)
    config, weights = MODELS["blocks"]
    decoder = Decoder(config, weights, threads=2)
    expected = all_logits(decoder, decoder.new_state(), IDS)
    rng = random.Random(5)
    states: list[State] = [decoder.new_state()]
    for _ in range(60):
        state = rng.choice(states)
        choice = rng.randrange(6)
        if choice == 0 and len(states) < 4:
            states.append(state.copy())
        elif choice == 1:
            states[states.index(state)] = restore(decoder, save(state))
        elif choice == 2:
            state.trim(max(0, state.length - rng.randrange(60)))
        else:
            start, stop = state.length, min(len(IDS), state.length + rng.choice([1, 1, 5, 40]))
            if stop > start:
                got = decoder.step(Batch.of([(state, IDS[start:stop])], logits="all")).logits
                np.testing.assert_array_equal(got, expected[start:stop])
        assert state.nbytes <= decoder.kv_bytes(state.length)
    decoder.close()


def test_damaged_states_are_refused() -> None:
    config, weights = MODELS["dense"]
    decoder = Decoder(config, weights)
    state = decoder.new_state()
    all_logits(decoder, state, IDS[:30])
    page = state.page(0, False)
    saved = page.save()
    changed = bytearray(saved)
    changed[len(saved) // 2] ^= 1
    half = len(saved) // 2
    for damaged in (b"", saved[:-1], saved + b"\0", b"x" + saved[1:], saved[:half], bytes(changed)):
        with pytest.raises(StateError):
            decoder.restore_page(0, False, 30, damaged)
    for index, local, rows in ((1, False, 30), (0, True, 30), (0, False, 31), (-1, False, 30), (0, False, 0)):
        with pytest.raises(StateError):
            decoder.restore_page(index, local, rows, saved)
    with pytest.raises(StateError):
        state.trim(31)
    assert decoder.restore_page(0, False, 30, saved).save() == saved
