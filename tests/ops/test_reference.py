"""Each operation against numbers worked out by hand or by a formula of its own, and the reference's state."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError, StateError
from gemlet.formats.tensors import Tensor
from gemlet.ops.batch import PAGE, Batch
from gemlet.ops.operations import CacheLayer, Program
from gemlet.ops.packed import Packed, pack, unpack
from gemlet.ops.reference import ReferenceExecutor, ReferenceOperations
from gemlet.ops.reference_state import SLACK, ReferenceState
from tests.states import restore, save

FLOAT = np.dtype(np.float32)
ONE_ROUNDING = 2.0**-23


def matrix(values: NDArray[np.float32]) -> Packed:
    return pack(Tensor("w", "F32", values.shape, values.reshape(-1).view(np.uint8)))


def operations(length: int, *, start: int = 0, layer: CacheLayer | None = None) -> ReferenceOperations:
    """For a step of one sequence with that many rows, of which the last asks for logits."""
    layers = (layer or CacheLayer(1, 4, None),)
    state = ReferenceState(layers, FLOAT)
    if start:
        blank = np.zeros((start, layers[0].kv_heads * layers[0].head_dim), np.float32)
        state.store(0, blank, blank)
        state.advance(start)
    return ReferenceOperations(Batch.of([(state, range(length))]), unpack)


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def test_embed_looks_rows_up_and_scales_them() -> None:
    table = random(5, 3)
    np.testing.assert_array_equal(operations(4).embed(matrix(table), 2.0), table[:4] * 2)


def test_norm_divides_by_the_root_mean_square() -> None:
    x = np.array([[3.0, 4.0, 0.0, 0.0]], np.float32)
    got = operations(1).norm(x, np.array([1, 2, 3, 4], np.float32), 0.0)
    np.testing.assert_allclose(got, [[3 / 2.5, 8 / 2.5, 0, 0]], rtol=2 * ONE_ROUNDING)


def test_norm_adds_epsilon_to_the_mean_square() -> None:
    got = operations(1).norm(np.full((1, 4), 2.0, np.float32), np.ones(4, np.float32), 5.0)
    np.testing.assert_allclose(got, np.full((1, 4), 2 / 3), rtol=2 * ONE_ROUNDING)


def test_a_short_norm_weight_norms_each_head_alone() -> None:
    x, weight = random(3, 8), random(4)
    got = operations(3).norm(x, weight, 1e-6)
    for head in (slice(0, 4), slice(4, 8)):
        np.testing.assert_array_equal(got[:, head], operations(3).norm(x[:, head], weight, 1e-6))


def test_linear_multiplies_by_the_transposed_matrix() -> None:
    x, weight = random(2, 5), random(7, 5)
    expected = [
        [math.fsum(float(a) * float(b) for a, b in zip(row, w, strict=True)) for w in weight] for row in x
    ]
    np.testing.assert_allclose(operations(2).linear(x, matrix(weight)), expected, atol=1e-6)


def test_rope_turns_halves_against_each_other() -> None:
    x = np.array([[1.0, 0.0, 0.0, 1.0] * 2], np.float32)
    got = operations(1, start=3).rope(x, 4, 100.0)
    fast, slow = 3.0, 3.0 / 10
    head = [math.cos(fast), -math.sin(slow), math.sin(fast), math.cos(slow)]
    np.testing.assert_allclose(got, [head * 2], atol=3 * ONE_ROUNDING)


def test_rope_keeps_length_and_depends_on_distance_only() -> None:
    q, k = random(1, 16), random(2, 16)[1:]

    def score(query_position: int, key_position: int) -> float:
        turned = [
            operations(1, start=p).rope(x, 16, 1e4) for x, p in ((q, query_position), (k, key_position))
        ]
        assert np.linalg.norm(turned[0]) == pytest.approx(float(np.linalg.norm(q)), rel=1e-6)
        return float((turned[0] @ turned[1].T)[0, 0])

    # Angles up to 50 carry 50 * 2^-24 of rounding each; the vectors' lengths are about 4.
    assert score(50, 41) == pytest.approx(score(10, 1), abs=4 * 4 * 4 * 50 * 2.0**-24)


def attention_by_hand(q, k, v, heads, kv_heads, head_dim, scale, window):  # type: ignore[no-untyped-def]
    """One row, head and position at a time, in double precision."""
    result = np.zeros(q.shape)
    for i in range(len(q)):
        for h in range(heads):
            own, shared = slice(h * head_dim, (h + 1) * head_dim), h // (heads // kv_heads)
            theirs = slice(shared * head_dim, (shared + 1) * head_dim)
            seen = [j for j in range(i + 1) if window is None or i - window < j]
            powers = [
                math.exp(scale * float(q[i, own].astype(float) @ k[j, theirs].astype(float))) for j in seen
            ]
            for j, power in zip(seen, powers, strict=True):
                result[i, own] += power / math.fsum(powers) * v[j, theirs]
    return result


@pytest.mark.parametrize("window", [None, 1, 3, 6, 7])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1), (6, 2), (3, 3)])
def test_attend_sees_the_window_and_shares_key_heads(heads: int, kv_heads: int, window: int | None) -> None:
    dim, rows = 4, 7
    q, k, v = (
        random(rows, heads * dim),
        random(rows + 1, kv_heads * dim)[1:],
        random(rows + 2, kv_heads * dim)[2:],
    )
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "scale": 0.5, "window": window}
    got = operations(rows, layer=CacheLayer(kv_heads, dim, window)).attend(q, k, v, layer=0, **shape)
    np.testing.assert_allclose(got, attention_by_hand(q, k, v, **shape), atol=2e-6)


def test_attend_rounds_keys_and_values_before_it_uses_them() -> None:
    layer = CacheLayer(1, 4, None)
    state = ReferenceState((layer,), np.dtype(np.float16))
    half = ReferenceOperations(Batch.of([(state, [0, 1])]), unpack)
    q, k, v = random(2, 4), random(3, 4)[1:], random(4, 4)[2:]
    shape = {"layer": 0, "heads": 1, "kv_heads": 1, "head_dim": 4, "scale": 1.0, "window": None}
    rounded = [x.astype(np.float16).astype(np.float32) for x in (k, v)]
    expected = operations(2, layer=layer).attend(q, *rounded, **shape)
    np.testing.assert_array_equal(half.attend(q, k, v, **shape), expected)


def test_gelu_gate_is_the_tanh_form() -> None:
    gate, up = np.array([[-3.0, -0.5, 0.0, 1.0, 20.0]], np.float32), np.full((1, 5), 2.0, np.float32)
    expected = [x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in gate[0].tolist()]
    np.testing.assert_allclose(operations(1).gelu_gate(gate, up), [expected], atol=1e-6)


def test_add_and_select() -> None:
    x, y = random(3, 2), random(4, 2)[1:]
    three = operations(3)
    np.testing.assert_array_equal(three.add(x, y), x + y)
    np.testing.assert_array_equal(three.select(x, "logits"), x[2:])
    assert three.select(x, "hidden").shape == (0, 2)


@pytest.fixture
def executor() -> ReferenceExecutor:
    layers = (CacheLayer(2, 4, 5), CacheLayer(2, 4, None))
    return ReferenceExecutor(Program(lambda ops: None, layers, 10, 4096, 256))


def filled(executor: ReferenceExecutor, rows: int) -> ReferenceState:
    state = executor.new_state()
    for start in range(0, rows, 100):
        count = min(100, rows - start)
        for layer in range(2):
            content = np.arange(start, start + count, dtype=np.float32)[:, None] + np.arange(
                8, dtype=np.float32
            )
            state.store(layer, content, -content)
        state.advance(count)
    return state


def content(state: ReferenceState, layer: int) -> tuple[int, list[float]]:
    """First position a layer holds, and the first element of each of its keys."""
    nothing = np.zeros((0, 8), np.float32)
    first, keys, _ = state.copy().store(layer, nothing, nothing)
    return first, keys[:, 0].tolist()


@pytest.mark.parametrize("length", [0, 1, 68, 69, 300])
def test_local_layers_forget_and_the_price_is_known_before(executor: ReferenceExecutor, length: int) -> None:
    state = filled(executor, length)
    first = max(0, length - 4 - SLACK) // PAGE * PAGE
    assert content(state, 0) == (first, list(range(first, length)))
    assert content(state, 1) == (0, list(range(length)))
    assert state.nbytes == executor.kv_bytes(length) == (length + length - first) * 2 * 8 * 4


def test_trim_goes_back_as_far_as_the_slack(executor: ReferenceExecutor) -> None:
    state = filled(executor, 300)
    with pytest.raises(StateError):
        state.trim(195)  # needs position 191; the page of 300 - 4 - SLACK begins at 192
    assert state.length == 300
    state.trim(300 - SLACK)
    assert state.length == 236
    assert content(state, 0) == (192, list(range(192, 236)))
    with pytest.raises(StateError):
        state.trim(237)
    with pytest.raises(StateError):
        state.trim(-1)


def test_a_short_state_trims_to_nothing(executor: ReferenceExecutor) -> None:
    state = filled(executor, SLACK)
    state.trim(0)
    assert (state.length, state.nbytes) == (0, 0)


def test_a_copy_does_not_follow(executor: ReferenceExecutor) -> None:
    state = filled(executor, 20)
    other = state.copy()
    state.trim(3)
    assert other.length == 20
    assert content(other, 1) == (0, list(range(20)))


@pytest.mark.parametrize("length", [0, 5, 64, 300])
def test_restore_undoes_save(executor: ReferenceExecutor, length: int) -> None:
    state = filled(executor, length)
    other = restore(executor, save(state))
    assert other.length == length
    assert [content(other, layer) for layer in range(2)] == [content(state, layer) for layer in range(2)]
    assert save(other) == save(state)


def test_a_trimmed_state_is_saved_as_it_is(executor: ReferenceExecutor) -> None:
    state = filled(executor, 300)
    state.trim(258)
    other = restore(executor, save(state))
    assert [content(other, layer) for layer in range(2)] == [content(state, layer) for layer in range(2)]


def test_pages_that_are_not_held_are_refused(executor: ReferenceExecutor) -> None:
    state = filled(executor, 300)
    for index, local in ((-1, False), (5, False), (0, True), (state.first_page - 1, True)):
        with pytest.raises(StateError):
            state.page(index, local)


def test_a_state_needs_all_its_pages(executor: ReferenceExecutor) -> None:
    state = filled(executor, 100)
    pages, local_pages = ([state.page(i, local) for i in range(2)] for local in (False, True))
    assert executor.first_needed_page(100) == 1
    assert executor.join(pages, local_pages[1:], 100).length == 100
    assert content(executor.join(pages, local_pages, 90), 1) == (0, list(range(90)))
    for some, some_local, length in (
        (pages[:1], local_pages, 100),
        (pages, [], 100),
        (pages, local_pages, 101),
        (pages, local_pages, -1),
        (pages, local_pages, 64),
        (pages[::-1], local_pages, 100),
        (local_pages, pages, 100),
    ):
        with pytest.raises(StateError):
            executor.join(some, some_local, length)


def test_foreign_bytes_are_refused(executor: ReferenceExecutor) -> None:
    data = filled(executor, 100).page(1, False).save()
    assert executor.restore_page(1, False, 36, data).save() == data
    for bad in (b"", b"\0" * 100, data[:-1], data + b"\0", data[:20], b"X" + data[1:], data[:-1] + b"X"):
        with pytest.raises(StateError):
            executor.restore_page(1, False, 36, bad)
    for place in ((0, False, 36), (1, True, 36), (1, False, 35)):
        with pytest.raises(StateError):
            executor.restore_page(*place, data)


def test_a_state_of_another_shape_is_refused(executor: ReferenceExecutor) -> None:
    other = ReferenceExecutor(Program(lambda ops: None, (CacheLayer(1, 4, 5),), 10, 4096, 256))
    state, rows = other.new_state(), np.ones((3, 4), np.float32)
    state.store(0, rows, rows)
    state.advance(3)
    page = state.page(0, True)
    with pytest.raises(StateError):
        executor.restore_page(0, True, 3, page.save())
    with pytest.raises(StateError):
        executor.join([filled(executor, 3).page(0, False)], [page], 3)
    with pytest.raises(StateError):
        executor.step(Batch.of([(other.new_state(), [1])]))


def test_what_it_cannot_do_it_refuses() -> None:
    program = Program(lambda ops: None, (), 10, 4096, 256)
    with pytest.raises(InvalidRequestError):
        ReferenceExecutor(program, threads=2)
    with pytest.raises(InvalidRequestError):
        ReferenceExecutor(program, cache_type="int8")


def test_top_k_is_descending_with_ties_by_id(executor: ReferenceExecutor) -> None:
    row = np.array([1.0, 3.0, -np.inf, 3.0, 2.0, 3.0], np.float32)
    ids, values = executor.top_k(row, 4)
    assert (ids.tolist(), values.tolist()) == ([1, 3, 5, 4], [3.0, 3.0, 3.0, 2.0])
    assert executor.top_k(row, 99)[0].tolist() == [1, 3, 5, 4, 0, 2]


def test_logsumexp_does_not_overflow(executor: ReferenceExecutor) -> None:
    assert executor.logsumexp(np.zeros(8, np.float32)) == pytest.approx(math.log(8))
    assert executor.logsumexp(np.array([1000.0, 1000.0], np.float32)) == pytest.approx(1000 + math.log(2))
    assert executor.logsumexp(np.array([-1000.0, -np.inf], np.float32)) == pytest.approx(-1000)
