"""The same bits, whatever surrounds a request: chunks, threads, neighbours, what happened to its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.model.decoder import Decoder
from gemlet.ops.batch import Batch, State
from tests.packing import packed_weights
from tests.parity.oracle import rounding_tolerance
from tests.parity.real import Real
from tests.states import restore, save
from tests.synthetic import tiny_config, tiny_weights

Float32 = NDArray[np.float32]

KINDS: dict[str, dict[str, str]] = {
    "symmetric": {"token_embd": "Q8_0", "attn_v": "Q6_K", "ffn_down": "Q5_0", "*": "Q4_0"},
    "with minima": {"token_embd": "Q4_K", "attn_output": "Q5_1", "ffn_gate": "Q5_K", "*": "Q4_1"},
    "dense": {"token_embd": "BF16", "attn_q": "F16", "ffn_up": "F32", "*": "BF16"},
    "mixed": {
        "token_embd": "Q6_K",
        "attn_q": "Q4_K",
        "attn_k": "Q5_K",
        "attn_v": "F16",
        "attn_output": "Q8_0",
        "ffn_gate": "Q4_0",
        "ffn_up": "BF16",
        "ffn_down": "F32",
    },
}
"""Together every weight format of the kernels, each with neighbours of other formats."""

CONFIG = tiny_config(
    hidden_size=256,
    intermediate_size=512,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=48,
    layers=6,
)
TOKENS = 310
IDS = np.random.default_rng(5).integers(0, CONFIG.vocab_size, TOKENS).tolist()
CHUNKS = (1, 7, 64, 512)
"""Chunks of a request; one of 512 takes two steps of the 256 rows that a step has room for."""


NEIGHBOUR_ROWS = 9
"""A neighbour brings one to so many rows to a step."""
LONGEST_NEIGHBOUR = 300
"""Positions after which a neighbour starts anew."""


@dataclass(frozen=True)
class Run:
    """What a request was given, position by position."""

    logits: Float32
    hidden: Float32


def feed(
    decoder: Decoder,
    ids: Sequence[int],
    chunk: int,
    *,
    state: State | None = None,
    neighbours: int = 0,
    every: int = 1,
) -> Run:
    """Take a request to the end of `ids`, in steps of at most `chunk` of its rows, beside other requests.

    Keeps all hidden states, and the logits of the positions that `every` divides.
    """
    state = decoder.new_state() if state is None else state
    rng = np.random.default_rng(neighbours)
    others = [decoder.new_state() for _ in range(neighbours)]
    logits, hidden = [], []
    while state.length < len(ids):
        others = [other if other.length < LONGEST_NEIGHBOUR else decoder.new_state() for other in others]
        parts: list[tuple[State, Any]] = [
            (other, rng.integers(0, decoder.config.vocab_size, rng.integers(1, NEIGHBOUR_ROWS + 1)))
            for other in others
        ]
        room = decoder.max_rows - NEIGHBOUR_ROWS * neighbours
        place = int(rng.integers(0, neighbours + 1))
        parts.insert(place, (state, ids[state.length :][: min(chunk, room)]))
        batch = Batch.of(parts, hidden="all")
        start = sum(batch.rows[:place])
        end = start + batch.rows[place]
        wanted = np.flatnonzero(batch.positions % every == 0).astype(np.int32)
        output = decoder.step(replace(batch, logits=wanted))
        logits.append(output.logits[(wanted >= start) & (wanted < end)])
        hidden.append(output.hidden[start:end])
    return Run(np.concatenate(logits), np.concatenate(hidden))


def assert_same(got: Run, expected: Run, start: int = 0) -> None:
    """To the last bit; `got` began at position `start`."""
    np.testing.assert_array_equal(got.hidden, expected.hidden[start:])
    np.testing.assert_array_equal(got.logits, expected.logits[len(expected.logits) - len(got.logits) :])


def through_copy(decoder: Decoder, state: State) -> State:
    """A copy, while the original goes another way."""
    twin = state.copy()
    feed(decoder, [0] * (state.length + 20), 20, state=state)
    return twin


def through_bytes(decoder: Decoder, state: State) -> State:
    """Saved, and restored after the decoder has done something else."""
    data = save(state)
    feed(decoder, [1] * 30, 30)
    return restore(decoder, data)


def through_trim(decoder: Decoder, state: State) -> State:
    """Taken 64 positions further and trimmed back, as after a draft that was not accepted."""
    length = state.length
    feed(decoder, [2] * (length + 64), 64, state=state)
    state.trim(length)
    return state


Detour = Callable[[Decoder, State], State]
DETOURS: list[Detour] = [through_copy, through_bytes, through_trim]


class Tiny:
    """Decoders of CONFIG with 1 and 2 threads, and the run that all others must equal."""

    def __init__(self, kinds: dict[str, str]) -> None:
        weights = packed_weights(tiny_weights(CONFIG, np.random.default_rng(0)), kinds)
        self.one, self.two = (Decoder(CONFIG, weights, threads=count) for count in (1, 2))
        self.expected = feed(self.one, IDS, 64)


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    made = Tiny(KINDS[request.param])
    yield made
    made.one.close()
    made.two.close()


def test_the_run_means_something(tiny: Tiny) -> None:
    """Equality would prove nothing about outputs that are all the same or not finite."""
    assert tiny.expected.logits.shape == (TOKENS, CONFIG.vocab_size)
    assert np.isfinite(tiny.expected.logits).all()
    assert tiny.expected.logits.std(axis=0).min() > 0


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks(tiny: Tiny, chunk: int) -> None:
    assert_same(feed(tiny.one, IDS, chunk), tiny.expected)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_threads(tiny: Tiny, chunk: int) -> None:
    assert (tiny.one.threads, tiny.two.threads) == (1, 2)
    assert_same(feed(tiny.two, IDS, chunk), tiny.expected)


@pytest.mark.parametrize(
    ("neighbours", "chunk"), [*((count, 64) for count in range(1, 8)), (1, 1), (3, 1), (7, 1)]
)
def test_neighbours(tiny: Tiny, neighbours: int, chunk: int) -> None:
    assert_same(feed(tiny.two, IDS, chunk, neighbours=neighbours), tiny.expected)


@pytest.mark.parametrize("detour", DETOURS)
@pytest.mark.parametrize("length", [1, 47, 64, 65, 200, 301])
def test_states(tiny: Tiny, length: int, detour: Detour) -> None:
    state = tiny.two.new_state()
    feed(tiny.two, IDS[:length], 64, state=state)
    assert_same(feed(tiny.two, IDS, 50, state=detour(tiny.two, state)), tiny.expected, length)


def test_a_state_saved_under_other_threads(tiny: Tiny) -> None:
    state = tiny.one.new_state()
    feed(tiny.one, IDS[:100], 64, state=state)
    assert_same(feed(tiny.two, IDS, 50, state=restore(tiny.two, save(state))), tiny.expected, 100)


def test_the_comparison_notices_one_bit(tiny: Tiny) -> None:
    logits = tiny.expected.logits.copy()
    logits[200, 3] = np.nextafter(logits[200, 3], np.float32(np.inf))
    with pytest.raises(AssertionError):
        assert_same(replace(tiny.expected, logits=logits), tiny.expected)


def test_the_reference_agrees_with_itself_up_to_rounding() -> None:
    """NumPy's matrix product may add in another order for another shape: close is all it promises."""
    weights = packed_weights(tiny_weights(CONFIG, np.random.default_rng(0)), KINDS["mixed"])
    decoder = Decoder(CONFIG, weights, executor="reference")
    expected = feed(decoder, IDS, 64)
    tolerance = rounding_tolerance(CONFIG, expected.logits)
    for got in (feed(decoder, IDS, 7), feed(decoder, IDS, 512), feed(decoder, IDS, 64, neighbours=3)):
        np.testing.assert_allclose(got.logits, expected.logits, rtol=0, atol=tolerance)
    for detour in DETOURS:
        state = decoder.new_state()
        feed(decoder, IDS[:200], 64, state=state)
        got = feed(decoder, IDS, 64, state=detour(decoder, state))
        np.testing.assert_allclose(got.logits, expected.logits[200:], rtol=0, atol=tolerance)


REAL_TOKENS = 620
EVERY = 50
"""Of the real model, logits (1 MiB each) are compared at every 50th position, hidden states at all."""


class RealRuns:
    """The real model with 1 and 2 threads, a text longer than its window, and the run to equal."""

    def __init__(self, real: Real) -> None:
        self.one, self.two = (Decoder(real.config, real.weights, threads=count) for count in (1, 2))
        self.ids = real.ids("code", REAL_TOKENS)
        self.expected = feed(self.two, self.ids, 64, every=EVERY)


@pytest.fixture(scope="module")
def runs(real: Real) -> Iterator[RealRuns]:
    made = RealRuns(real)
    yield made
    made.one.close()
    made.two.close()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_real_chunks(runs: RealRuns, chunk: int) -> None:
    assert_same(feed(runs.two, runs.ids, chunk, every=EVERY), runs.expected)


def test_real_threads(runs: RealRuns) -> None:
    assert_same(feed(runs.one, runs.ids, 512, every=EVERY), runs.expected)


@pytest.mark.parametrize("neighbours", [1, 7])
def test_real_neighbours(runs: RealRuns, neighbours: int) -> None:
    assert_same(feed(runs.two, runs.ids, 64, neighbours=neighbours, every=EVERY), runs.expected)


@pytest.mark.parametrize("detour", DETOURS)
def test_real_states(runs: RealRuns, detour: Detour) -> None:
    state = runs.two.new_state()
    feed(runs.two, runs.ids[:530], 256, state=state, every=EVERY)
    rest = feed(runs.two, runs.ids, 7, state=detour(runs.two, state), every=EVERY)
    assert_same(rest, runs.expected, 530)
