"""A configuration refuses what cannot be, and knows its costs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import nan
from typing import Any

import pytest

from gemlet.model.config import MAX_LAYERS, ConfigValueError
from tests.synthetic import layer_types, shapes, tiny_config

GEMMA_1B = {
    "layers": 26,
    "vocab_size": 262144,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "head_dim": 256,
    "context_length": 32768,
    "sliding_window": 512,
}
GEMMA_270M = GEMMA_1B | {"layers": 18, "hidden_size": 640, "intermediate_size": 2048}


def test_published_parameter_counts() -> None:
    """Equal to the sizes of the published checkpoints: 1 999 771 904 and 536 196 352 bytes of bf16."""
    large, small = tiny_config(**GEMMA_1B), tiny_config(**GEMMA_270M)
    assert large.parameter_counts() == {"embedding": 301_989_888, "linear": 697_761_792, "norm": 134_272}
    assert small.parameter_counts() == {"embedding": 167_772_160, "linear": 100_270_080, "norm": 55_936}
    assert (len(large.tensor_shapes()), len(small.tensor_shapes())) == (340, 236)


def test_key_value_bytes() -> None:
    large, small = tiny_config(**GEMMA_1B), tiny_config(**GEMMA_270M)
    assert large.kv_bytes(32768) == 139 << 20
    assert large.kv_bytes(2048) == 19 << 20
    assert small.kv_bytes(32768) == int(103.5 * (1 << 20))
    assert large.kv_bytes(100) == 100 * 26 * 1024
    assert large.kv_bytes(100, element_bytes=4) == 2 * large.kv_bytes(100)


def test_floating_point_operations() -> None:
    large = tiny_config(**GEMMA_1B)
    assert large.flops(0, logits=False) == 2 * 697_761_792 + 26 * 4 * 1024
    assert large.flops(0) - large.flops(0, logits=False) == 2 * 301_989_888
    far = large.flops(10_000, logits=False) - 2 * 697_761_792
    assert far == 4 * 1024 * (22 * 512 + 4 * 10_001)


def test_tensors_are_those_of_the_family() -> None:
    for tied in (True, False):
        config = tiny_config(tie_word_embeddings=tied, num_attention_heads=6, num_key_value_heads=3)
        assert config.tensor_shapes() == shapes(config)


def test_windows_follow_the_layer_types() -> None:
    config = tiny_config(layer_types=layer_types(12))
    assert [i for i in range(12) if config.window(i) is None] == [5, 11]
    assert config.window(0) == config.sliding_window


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("hidden_size", -1),
        ("intermediate_size", 1 << 40),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("context_length", 0),
        ("sliding_window", 0),
        ("rope_theta", 0.0),
        ("rope_local_theta", nan),
        ("rms_norm_eps", 0.0),
        ("attention_scale", float("inf")),
        ("embedding_scale", -1.0),
        ("family", "mamba"),
        ("layer_types", ()),
        ("layer_types", ("local",) * (MAX_LAYERS + 1)),
        ("bos_id", 640),
        ("pad_id", -1),
        ("stop_ids", ()),
        ("stop_ids", (1, 640)),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigValueError) as caught:
        tiny_config(**{field: value})
    assert caught.value.field == ("num_attention_heads" if value == 3 else field)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_config().vocab_size = 5  # type: ignore[misc]
