"""The decoder around an executor: steps, states, what it refuses. Its numbers are checked in tests/parity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.errors import ContextLengthError, InvalidRequestError, ModelClosedError, StateError
from gemlet.model import decoder as decoder_module
from gemlet.model.decoder import MAX_ROWS, Decoder
from gemlet.ops.batch import Batch, State
from gemlet.ops.operations import Program
from gemlet.ops.reference import ReferenceExecutor
from tests.packing import packed_weights
from tests.states import restore, save
from tests.synthetic import tiny_config, tiny_weights

CONFIG = tiny_config(layers=6, sliding_window=16, context_length=300)
WEIGHTS = packed_weights(tiny_weights(CONFIG, np.random.default_rng(0)))
IDS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, 300).tolist()


@pytest.fixture(params=["reference", "native"])
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    made = Decoder(CONFIG, WEIGHTS, executor=request.param)
    yield made
    made.close()


def feed(decoder: Decoder, state: State, ids: list[int]) -> NDArray[np.float32]:
    """The logits after the last of `ids`."""
    for start in range(0, len(ids), 100):
        output = decoder.step(Batch.of([(state, ids[start : start + 100])]))
    return output.logits[0]


def test_a_step_gives_what_was_asked_and_advances(decoder: Decoder) -> None:
    first, second = decoder.new_state(), decoder.new_state()
    batch = Batch.of([(first, IDS[:5]), (second, IDS[:3])], hidden="all")
    output = decoder.step(replace(batch, logits=np.array([7, 2], np.int32)))
    assert output.logits.shape == (2, CONFIG.vocab_size)
    assert output.hidden.shape == (8, CONFIG.hidden_size)
    assert output.logits.dtype == output.hidden.dtype == np.float32
    assert (first.length, second.length) == (5, 3)
    # Rows 7 and 2 both end the same three tokens: their logits do not depend on what else was in the step.
    np.testing.assert_allclose(output.logits[0], output.logits[1], atol=1e-4)
    np.testing.assert_allclose(output.hidden[7], output.hidden[2], atol=1e-4)


def test_logits_are_the_head_of_the_hidden_state(decoder: Decoder) -> None:
    output = decoder.step(Batch.of([(decoder.new_state(), IDS[:5])], logits="all", hidden="all"))
    table = tiny_weights(CONFIG, np.random.default_rng(0))["token_embd"]
    np.testing.assert_allclose(output.logits, output.hidden @ table.T, atol=1e-3)


def test_a_step_without_outputs_still_fills_the_state(decoder: Decoder) -> None:
    silent, loud = decoder.new_state(), decoder.new_state()
    output = decoder.step(Batch.of([(silent, IDS[:40])], logits="none"))
    assert output.logits.shape == (0, CONFIG.vocab_size)
    feed(decoder, loud, IDS[:40])
    np.testing.assert_allclose(feed(decoder, silent, IDS[40:41]), feed(decoder, loud, IDS[40:41]), atol=1e-4)


def test_states_are_copied_trimmed_saved_and_restored(decoder: Decoder) -> None:
    state = decoder.new_state()
    feed(decoder, state, IDS[:100])
    twin, saved = state.copy(), save(state)
    expected = feed(decoder, state, IDS[100:130])
    assert (state.length, twin.length) == (130, 100)
    np.testing.assert_allclose(feed(decoder, twin, IDS[100:130]), expected, atol=1e-4)
    np.testing.assert_allclose(feed(decoder, restore(decoder, saved), IDS[100:130]), expected, atol=1e-4)
    twin.trim(110)
    np.testing.assert_allclose(feed(decoder, twin, IDS[110:130]), expected, atol=1e-4)


def test_a_state_forgets_and_says_so(decoder: Decoder) -> None:
    state = decoder.new_state()
    feed(decoder, state, IDS[:295])
    feed(decoder, state, IDS[295:300])
    for impossible in (0, 301, -1):
        with pytest.raises(StateError):
            state.trim(impossible)
    with pytest.raises(StateError, match="page 0"):
        state.page(0, True)
    state.trim(300 - 64)
    assert state.length == 236
    with pytest.raises(StateError):
        decoder.restore_page(0, False, 64, b"not a page at all, but long enough to look at")


def test_a_state_never_holds_more_than_its_price(decoder: Decoder) -> None:
    state = decoder.new_state()
    for start in range(0, 300, 60):
        feed(decoder, state, IDS[start : start + 60])
        assert 0 < state.nbytes <= decoder.kv_bytes(start + 60)
    # Five local layers of 16 keep no more after 300 positions than after 150; the one global layer does.
    width = CONFIG.key_value_width * 4
    assert decoder.kv_bytes(300) - decoder.kv_bytes(150) <= 2 * 150 * width + 6 * 64 * 2 * width


def test_a_failed_step_advances_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking:
        """Operations that fail at the second attention."""

        def __init__(self, operations: Any) -> None:
            self._operations, self._left = operations, 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._operations, name)

        def attend(self, *args: Any, **options: Any) -> Any:
            if not self._left:
                raise MemoryError
            self._left -= 1
            return self._operations.attend(*args, **options)

    broken = True

    def make(program: Program, **options: Any) -> ReferenceExecutor:
        return ReferenceExecutor(
            replace(program, forward=lambda ops: program.forward(Breaking(ops) if broken else ops)), **options
        )

    monkeypatch.setitem(decoder_module.EXECUTORS, "breaking", make)
    decoder = Decoder(CONFIG, WEIGHTS, executor="breaking")
    state = decoder.new_state()
    with pytest.raises(MemoryError):
        feed(decoder, state, IDS[5:9])
    assert state.length == 0
    broken = False
    np.testing.assert_array_equal(feed(decoder, state, IDS[:9]), feed(decoder, decoder.new_state(), IDS[:9]))


def test_wrong_steps_are_refused(decoder: Decoder) -> None:
    state = decoder.new_state()
    with pytest.raises(InvalidRequestError, match="rows"):
        decoder.step(Batch.of([(state, [1] * (MAX_ROWS + 1))]))
    with pytest.raises(InvalidRequestError, match="ids"):
        decoder.step(Batch.of([(state, [CONFIG.vocab_size])]))
    feed(decoder, state, IDS[:250])
    with pytest.raises(ContextLengthError) as caught:
        decoder.step(Batch.of([(state, [1] * 51)]))
    assert (caught.value.needed, caught.value.context) == (301, 300)
    assert state.length == 250


def test_a_state_of_another_executor_is_refused() -> None:
    reference, native = (Decoder(CONFIG, WEIGHTS, executor=name) for name in ("reference", "native"))
    states = {decoder: decoder.new_state() for decoder in (reference, native)}
    for decoder, state in states.items():
        feed(decoder, state, IDS[:3])
    saved = {decoder: save(state) for decoder, state in states.items()}
    for one, other in ((reference, native), (native, reference)):
        with pytest.raises(StateError):
            one.step(Batch.of([(other.new_state(), [1])]))
        with pytest.raises(StateError):
            restore(one, saved[other])
        with pytest.raises(StateError, match="another"):
            one.join([states[other].page(0, False)], [states[other].page(0, True)], 3)


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="native, reference"):
        Decoder(CONFIG, WEIGHTS, executor="cuda")


def test_row_reductions(decoder: Decoder) -> None:
    row = np.random.default_rng(2).standard_normal(CONFIG.vocab_size, dtype=np.float32)
    row[[3, 100, 600]] = 9.0
    ids, values = decoder.top_k(row, 5)
    assert (ids.dtype, values.dtype) == (np.int32, np.float32)
    assert ids[:3].tolist() == [3, 100, 600]
    np.testing.assert_array_equal(values, np.sort(row)[::-1][:5])
    np.testing.assert_array_equal(values, row[ids])
    assert decoder.logsumexp(row) == pytest.approx(
        float(np.log(np.exp(row.astype(np.float64)).sum())), abs=1e-5
    )


def test_a_closed_decoder_says_so(decoder: Decoder) -> None:
    state = decoder.new_state()
    decoder.close()
    decoder.close()
    with pytest.raises(ModelClosedError, match="closed"):
        decoder.step(Batch.of([(state, [1])]))


def test_a_forked_child_is_told_to_open_its_own(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    state, parent = decoder.new_state(), os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(ModelClosedError, match="process"):
        decoder.step(Batch.of([(state, [1])]))


def test_the_reference_cache_type_matters_and_is_named() -> None:
    single = Decoder(CONFIG, WEIGHTS, executor="reference")
    half = Decoder(CONFIG, WEIGHTS, executor="reference", cache_type="float16")
    assert (single.cache_type, half.cache_type) == ("float32", "float16")
    assert half.kv_bytes(100) * 2 == single.kv_bytes(100)
    difference = np.abs(
        feed(half, half.new_state(), IDS[:50]) - feed(single, single.new_state(), IDS[:50])
    ).max()
    assert 0 < difference < 0.05  # keys and values of about 1 lose up to 2^-11 of themselves
