"""The reference decoder against transformers in float32, and proof that the comparison notices faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlet.model import decoder as decoder_module
from gemlet.model.config import LayerType, ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Weights
from gemlet.ops.operations import Program
from gemlet.ops.reference import ReferenceExecutor
from tests.packing import packed_weights
from tests.parity.oracle import Oracle, rounding_tolerance, worst_difference
from tests.parity.real import Real
from tests.synthetic import tiny_config, tiny_weights

LAYER_TYPES: tuple[LayerType, ...] = ("local", "global")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Every shape class. Widths stay above 7: a norm over fewer numbers can divide by almost nothing."""
    kv_heads = draw(st.integers(1, 4))
    return tiny_config(
        hidden_size=draw(st.integers(17, 97)),
        intermediate_size=draw(st.integers(8, 130)),
        layer_types=tuple(draw(st.lists(st.sampled_from(LAYER_TYPES), min_size=1, max_size=7))),
        num_attention_heads=kv_heads * draw(st.integers(1, 8 // kv_heads)),
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([8, 10, 22, 32, 64, 256])),
        sliding_window=draw(st.sampled_from([4, 5, 16, 33, 100, 512])),
        vocab_size=draw(st.integers(8, 300)),
        rope_theta=draw(st.sampled_from([1e4, 1e6])),
        rope_local_theta=draw(st.sampled_from([1e4, 500.0])),
        tie_word_embeddings=draw(st.booleans()),
    )


@settings(max_examples=40)
@given(configs(), st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_every_shape_equals_transformers(config: ModelConfig, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = tiny_weights(config, rng)
    tokens = 540 if config.sliding_window == 512 else config.sliding_window + 30
    ids = rng.integers(0, config.vocab_size, tokens).tolist()
    oracle = Oracle.of_config(config, tensors)
    decoder = Decoder(config, packed_weights(tensors), executor="reference")
    tolerance = rounding_tolerance(config, oracle.logits(oracle.hidden(ids)))
    assert worst_difference(decoder, oracle, ids, sizes) <= tolerance


class Changed:
    """The operations it is given, one of which a subclass changes."""

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)


def without_norm(index: int) -> type[Changed]:
    class WithoutNorm(Changed):
        """Leaves out one norm of the pass, counted from 0; each layer has six."""

        _seen = -1

        def norm(self, x: Any, weight: Any, eps: float) -> Any:
            self._seen += 1
            return x if self._seen == index else self._operations.norm(x, weight, eps)

    return WithoutNorm


class NeighbouringRope(Changed):
    """Pairs element 2i with 2i + 1 instead of i with i + head_dim/2."""

    def rope(self, x: Any, head_dim: int, theta: float, divisors: Any) -> Any:
        heads = x.reshape(len(x), -1, head_dim // 2, 2).swapaxes(-1, -2).reshape(x.shape)
        turned = self._operations.rope(heads, head_dim, theta, divisors)
        return turned.reshape(len(x), -1, 2, head_dim // 2).swapaxes(-1, -2).reshape(x.shape)


class WrongHeads(Changed):
    """Query head h reads key head h % kv_heads instead of h // (heads / kv_heads)."""

    def attend(self, q: Any, k: Any, v: Any, *, heads: int, kv_heads: int, head_dim: int, **rest: Any) -> Any:
        group = heads // kv_heads
        swapped = q.reshape(len(q), group, kv_heads, head_dim).swapaxes(1, 2).reshape(q.shape)
        x = self._operations.attend(swapped, k, v, heads=heads, kv_heads=kv_heads, head_dim=head_dim, **rest)
        return x.reshape(len(q), kv_heads, group, head_dim).swapaxes(1, 2).reshape(q.shape)


class SigmoidGelu(Changed):
    """The other common approximation of gelu."""

    def gelu_gate(self, gate: Any, up: Any) -> Any:
        return gate / (1 + np.exp(np.float32(-1.702) * gate)) * up


CONFIG = tiny_config(num_attention_heads=4, num_key_value_heads=2, sliding_window=8, layers=6)

OPERATION_FAULTS: dict[str, type[Changed]] = {
    **{f"layer 0 without norm {index}": without_norm(index) for index in range(6)},
    "without the last norm": without_norm(6 * CONFIG.num_layers + 1),
    "rope on neighbours": NeighbouringRope,
    "key heads interleaved": WrongHeads,
    "gelu by a sigmoid": SigmoidGelu,
}
CONFIG_FAULTS: dict[str, Mapping[str, Any]] = {
    "window one too wide": {"sliding_window": CONFIG.sliding_window + 1},
    "window one too narrow": {"sliding_window": CONFIG.sliding_window - 1},
    "global layers with the local rope base": {"rope_theta": CONFIG.rope_local_theta},
    "local layers with the global rope base": {"rope_local_theta": CONFIG.rope_theta},
    "no global layer": {"layer_types": ("local",) * CONFIG.num_layers},
    "global layer one too early": {"layer_types": ("local",) * 4 + ("global", "local")},
    "no embedding scale": {"embedding_scale": 1.0},
    "embedding scale off by half a bfloat16 step": {
        "embedding_scale": CONFIG.embedding_scale * (1 + 2.0**-9)
    },
    "scores scaled by the hidden size": {"attention_scale": CONFIG.hidden_size**-0.5},
    "epsilon a hundred times too large": {"rms_norm_eps": 1e-4},
}


def less_one(weights: Weights) -> Weights:
    """Norm weights as a Hugging Face file holds them."""
    return replace(weights, vectors={name: vector - 1 for name, vector in weights.vectors.items()})


@pytest.fixture(scope="module")
def difference() -> Callable[..., float]:
    """Worst difference, in tolerances, of a decoder of CONFIG that may be changed."""
    rng = np.random.default_rng(7)
    tensors, ids = tiny_weights(CONFIG, rng), rng.integers(0, CONFIG.vocab_size, 60).tolist()
    oracle = Oracle.of_config(CONFIG, tensors)
    tolerance = rounding_tolerance(CONFIG, oracle.logits(oracle.hidden(ids)))

    def measure(
        changes: Mapping[str, Any] | None = None,
        weights: Callable[[Weights], Weights] = lambda same: same,
        executor: str = "reference",
    ) -> float:
        changed = Decoder(
            replace(CONFIG, **changes or {}), weights(packed_weights(tensors)), executor=executor
        )
        return worst_difference(changed, oracle, ids) / tolerance

    return measure


def test_without_a_fault_the_checker_passes(difference: Callable[..., float]) -> None:
    assert difference() <= 1


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_checker_notices_a_wrong_configuration(difference: Callable[..., float], fault: str) -> None:
    assert difference(CONFIG_FAULTS[fault]) > 1


@pytest.mark.parametrize("fault", OPERATION_FAULTS)
def test_checker_notices_a_wrong_operation(
    difference: Callable[..., float], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = OPERATION_FAULTS[fault]

    def faulty(program: Program, **options: Any) -> ReferenceExecutor:
        return ReferenceExecutor(
            replace(program, forward=lambda ops: program.forward(change(ops))), **options
        )

    monkeypatch.setitem(decoder_module.EXECUTORS, "faulty", faulty)
    assert difference(executor="faulty") > 1


def test_checker_notices_norm_weights_without_the_added_one(difference: Callable[..., float]) -> None:
    assert difference(weights=less_one) > 1


REAL_TOLERANCE = 2e-3
"""Set from outside. `rounding_tolerance` would allow 6e-2 here; what is seen is 7e-5 on logits up to 40."""


def test_real_weights_equal_transformers(real: Real, real_oracle: Oracle) -> None:
    ids = real.ids("prose", 1500)
    assert len(ids) == 1500
    decoder = Decoder(real.config, real.weights, executor="reference")
    assert worst_difference(decoder, real_oracle, ids) <= REAL_TOLERANCE


def test_checker_notices_a_wrong_window_on_real_weights(real: Real, real_oracle: Oracle) -> None:
    wider = replace(real.config, sliding_window=real.config.sliding_window + 1)
    decoder = Decoder(wider, real.weights, executor="reference")
    window = real.config.sliding_window

    def difference(tokens: int, first: int) -> float:
        return worst_difference(decoder, real_oracle, real.ids("prose", tokens), first=first)

    assert difference(window, window - 8) <= REAL_TOLERANCE
    assert difference(window + 8, window) > REAL_TOLERANCE
