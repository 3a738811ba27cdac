"""The least work of a step and of a prompt, against counting it token by token."""

from __future__ import annotations

import numpy as np
import pytest

from gemlet.model.config import ModelConfig
from gemlet.model.weights import Weights, load
from gemlet.model.work import Work, prompt_work, step_work
from gemlet.ops.limits import Limits
from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture(scope="module", params=["Q8_0", "F32"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelConfig, Weights]:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(0), request.param)
    loaded = load(path, cache_dir=None)
    return loaded.facts.config, loaded.weights


def attended(config: ModelConfig, position: int) -> int:
    """Keys that all heads and layers meet, one by one."""
    return config.num_attention_heads * sum(
        len([key for key in range(position + 1) if (w := config.window(layer)) is None or key > position - w])
        for layer in range(config.num_layers)
    )


def matrices(weights: Weights, head: bool) -> list[str]:
    return [name for name in weights.packed if name.startswith("blk.") or head]


def test_a_step_reads_every_weight_once(model: tuple[ModelConfig, Weights]) -> None:
    config, weights = model
    products = sum(
        weights.packed[name].rows * weights.packed[name].columns for name in matrices(weights, True)
    )
    for position, streams in [(0, 1), (40, 1), (40, 3)]:
        work = step_work(config, weights, position, streams)
        assert work.bytes == weights.nbytes + streams * config.kv_bytes(position)
        attention = 2 * config.head_dim * attended(config, position) * streams
        assert work.byte_products + work.float_products == products * streams + attention
        dense = all("values" in matrix.arrays for matrix in weights.packed.values())
        assert (work.byte_products == 0) == dense
        assert dense or work.float_products == attention


def test_a_prompt_is_its_tokens_with_one_head(model: tuple[ModelConfig, Weights]) -> None:
    config, weights = model
    products = sum(
        weights.packed[name].rows * weights.packed[name].columns for name in matrices(weights, False)
    )
    head = weights.packed["token_embd"]
    work = prompt_work(config, weights, 30)
    attention = sum(2 * config.head_dim * attended(config, position) for position in range(30))
    assert work.bytes == weights.nbytes + config.kv_bytes(30)
    assert work.byte_products + work.float_products == 30 * products + head.rows * head.columns + attention


def test_the_least_time_is_the_longer_of_reading_and_computing() -> None:
    limits = Limits(read_bytes=10.0, byte_products=100.0, float_products=50.0)
    assert Work(100, 100, 50).seconds(limits) == 10.0
    assert Work(10, 300, 100).seconds(limits) == 5.0
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)
