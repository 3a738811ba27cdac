"""Memory by arithmetic, against what is really allocated and kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gemlet.model.decoder import MAX_ROWS, Decoder
from gemlet.model.head import gains_by_sketch
from gemlet.model.weights import load
from gemlet.ops.batch import Batch
from gemlet.ops.packed import Packed, layout
from gemlet.ops.sketch import build_sketch, finish, sketch_bytes
from gemlet.plan.efficiency import measured
from gemlet.plan.memory import forecast_memory, kv_bytes, smaller, step_buffers
from gemlet.plan.subject import KNOWN, from_config, from_file, from_name
from tests.synthetic import tiny_config, write_tiny_gguf, write_tiny_hf

EFFICIENCY = measured()


@pytest.fixture(scope="module", params=["Q4_0", "Q8_0", "Q6_K", "BF16"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / f"{request.param}.gguf"
    config = tiny_config(hidden_size=256, intermediate_size=256, context_length=4096)
    write_tiny_gguf(path, config, np.random.default_rng(0), request.param)
    return path


@pytest.mark.parametrize("weights", ["auto", "stored", "int8", "int4"])
def test_the_outline_has_the_types_and_sizes_that_loading_gives(stored: Path, weights: str) -> None:
    subject, loaded = from_file(stored, weights), load(stored, weights, cache_dir=None)
    real = loaded.weights.packed
    assert {n: (m.format, m.nbytes) for n, m in subject.weights.packed.items()} == {
        n: (m.format, m.nbytes) for n, m in real.items()
    }
    assert sum(subject.bytes_by_type.values()) == loaded.weights.nbytes
    norms = forecast_memory(subject, 64, 1, EFFICIENCY).norms
    assert norms == sum(vector.nbytes for vector in loaded.weights.vectors.values())


@pytest.mark.parametrize("positions", [1, 63, 64, 65, 300, 511, 512, 513, 900, 2000, 4096])
def test_keys_and_values_are_priced_as_the_executor_prices_them(stored: Path, positions: int) -> None:
    loaded = load(stored, cache_dir=None)
    with_decoder = Decoder(loaded.facts.config, loaded.weights, threads=1)
    assert sum(kv_bytes(loaded.facts.config, positions, MAX_ROWS)) == with_decoder.kv_bytes(positions)
    with_decoder.close()


def test_a_sequence_never_holds_more_than_its_price(stored: Path) -> None:
    loaded = load(stored, cache_dir=None)
    config, decoder = loaded.facts.config, Decoder(loaded.facts.config, loaded.weights, threads=1)
    state = decoder.new_state()
    for rows in (200, 256, 256, 56, *[1] * 70):
        decoder.step(Batch.of([(state, [5] * rows)], logits="none"))
        assert state.nbytes <= sum(kv_bytes(config, state.length, rows))
    local, whole = kv_bytes(config, state.length, 1)
    assert local + whole - state.nbytes <= 2 * kv_bytes(config, 64, 1)[0]  # at most two pages too many
    decoder.close()


@pytest.mark.parametrize(("rows", "columns"), [(1000, 128), (777, 160)])
def test_a_sketch_has_the_bytes_that_are_said(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    arrays = {}
    for name, (dtype, shape) in layout("i8", rows, columns).items():
        values = rng.integers(1, 255, shape) if name == "quants" else rng.random(shape) * 0.01
        arrays[name] = values.astype(dtype)
    sketch = finish(build_sketch(Packed("i8", rows, columns, arrays), rng.random((500, columns), np.float32)))
    assert sketch is not None
    assert sketch.nbytes == sketch_bytes(rows, columns)


def test_only_models_that_are_mostly_head_are_planned_with_a_sketch() -> None:
    for name in KNOWN:
        subject = from_name(name)
        has = forecast_memory(subject, 512, 1, EFFICIENCY).head_sketch > 0
        assert has == gains_by_sketch(subject.weights) == ("270m" in name)
        assert forecast_memory(subject, 512, 1, EFFICIENCY, sketch=False).head_sketch == 0


def test_known_names_have_the_published_parameter_counts() -> None:
    totals = {name: sum(from_name(name).config.parameter_counts().values()) for name in KNOWN}
    assert {totals[name] for name in KNOWN if "1b" in name} == {999_885_952}
    assert {totals[name] for name in KNOWN if "270m" in name} == {268_098_176}


def test_a_bf16_checkpoint_is_planned_as_it_loads() -> None:
    assert set(from_name("gemma-3-1b-it").bytes_by_type) == {"int8"}
    assert set(from_name("gemma-3-1b-it", "bf16").bytes_by_type) == {"bf16"}
    assert set(from_name("gemma-3-1b-it", "int4").bytes_by_type) == {"int4", "int8"}
    elements = sum(m.rows * m.columns for m in from_name("gemma-3-1b-it").weights.packed.values())
    assert sum(from_name("gemma-3-1b-it", "bf16").bytes_by_type.values()) == 2 * elements


def test_a_config_alone_is_planned_like_its_folder(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path, tiny_config(), np.random.default_rng(0))
    alone, folder = from_config(tmp_path / "config.json", "bf16"), from_file(tmp_path, "bf16")
    assert alone.config == folder.config
    assert alone.config.tensor_shapes() == folder.config.tensor_shapes()


def test_memory_grows_with_context_and_streams() -> None:
    subject = from_name("gemma-3-1b-it")
    contexts = [64, 65, 512, 513, 2048, 8192, 32768]
    for streams in (1, 4):
        totals = [forecast_memory(subject, n, streams, EFFICIENCY).total for n in contexts]
        assert totals == sorted(totals)
        assert totals[0] < totals[2] < totals[-1]
    totals = [forecast_memory(subject, 2048, n, EFFICIENCY).total for n in range(1, 10)]
    steps = {after - before for before, after in pairwise(totals)}
    assert len(steps) == 1
    assert steps.pop() >= subject.config.kv_bytes(2048)


def test_step_buffers_follow_the_widest_layer() -> None:
    small, large = from_name("gemma-3-270m"), from_name("gemma-3-1b-it")
    floats = MAX_ROWS * 4
    for subject in (small, large):
        config = subject.config
        assert step_buffers(subject) >= floats * (config.hidden_size + 2 * config.intermediate_size)
    assert step_buffers(large) > step_buffers(small)


@pytest.mark.parametrize("room_mb", [2600, 2200, 1400, 1250, 1000, 900, 860, 300])
def test_what_is_advised_does_fit(room_mb: int) -> None:
    subject = from_name("gemma-3-1b-it", "bf16")
    room, context, streams = room_mb * 10**6, 8192, 8
    needed = forecast_memory(subject, context, streams, EFFICIENCY).total
    if needed <= room:
        return
    for change in smaller(subject, "bf16", context, streams, room, EFFICIENCY):
        changed = subject.with_weights(change.weights or "bf16")
        total = forecast_memory(changed, change.context, change.streams, EFFICIENCY).total
        assert total == change.memory_bytes <= room
        assert replace(change, memory_bytes=0) != replace(change, weights=None, memory_bytes=0) or (
            change.context < context or change.streams < streams
        )


def test_advice_is_the_largest_that_fits() -> None:
    subject = from_name("gemma-3-1b-it")
    whole = forecast_memory(subject, 32768, 8, EFFICIENCY).total
    room = whole - 300 * 10**6
    found = smaller(subject, "auto", 32768, 8, room, EFFICIENCY)
    fewer = next(change for change in found if change.streams < 8)
    assert forecast_memory(subject, 32768, fewer.streams + 1, EFFICIENCY).total > room
    shorter = next(change for change in found if change.context < 32768)
    assert forecast_memory(subject, shorter.context + 64, 8, EFFICIENCY).total > room
    assert any(change.weights == "int4" for change in found)


def test_nothing_is_advised_where_nothing_fits() -> None:
    assert smaller(from_name("gemma-3-1b-it"), "auto", 4096, 1, 10**8, EFFICIENCY) == []
