"""The compiled module from Python: what it refuses; every instruction set agrees with the reference."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlet.errors import ConfigError, InvalidRequestError
from gemlet.ops import _native
from gemlet.ops.native import FORMATS, NativeExecutor, choose_instruction_set, frequencies, instruction_sets
from gemlet.ops.operations import CacheLayer, Program
from gemlet.ops.packed import layout
from gemlet.ops.record import OUTPUTS, ROWS, Op

SETS = instruction_sets()[::-1]  # the best last
VOCABULARY, HIDDEN = 20, 32


def arrays(format: Any, rows: int, columns: int) -> list[Any]:
    made = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout(format, rows, columns).items()}
    return [made.get("quants", made.get("values")), made.get("scales"), made.get("mins")]


def program(**changes: Any) -> Any:
    """Embedding rows of 32, normed into the hidden output, and times the table into the logits."""
    logits, hidden = ROWS["logits"], ROWS["hidden"]
    values: dict[str, Any] = {
        "isa": "auto",
        "threads": 1,
        "shape": (8, VOCABULARY, HIDDEN, 100),
        "layers": [(1, 1, 16, 0, 1.0)],
        "buffers": [HIDDEN, HIDDEN],
        "quantised": [(HIDDEN, False)],
        "matrices": [(FORMATS.index("i8"), VOCABULARY, HIDDEN, *arrays("i8", VOCABULARY, HIDDEN))],
        "vectors": [np.ones(HIDDEN, np.float32)],
        "rotations": [frequencies(16, 1e4)],
        "instructions": [
            (int(Op.EMBED), 0, 0, 0, 0, 0, 0, HIDDEN, 0, 1.0),
            (int(Op.SELECT), hidden, 1, 0, 0, 0, 0, HIDDEN, 0, 0.0),
            (int(Op.NORM), hidden, OUTPUTS["hidden"], 1, 0, 0, 0, HIDDEN, HIDDEN, 1e-6),
            (int(Op.SELECT), logits, 1, 0, 0, 0, 0, HIDDEN, 0, 0.0),
            (int(Op.QUANTISE), logits, 0, 1, 0, 0, 0, HIDDEN, 0, 0.0),
            (int(Op.LINEAR), logits, OUTPUTS["logits"], 0, 0, 0, 0, VOCABULARY, 0, 0.0),
        ],
    }
    assert changes.keys() <= values.keys()
    return _native.Program(*(values | changes).values())


def step(made: Any, **changes: Any) -> None:
    """A valid step of two rows, with `changes`."""
    values: dict[str, Any] = {
        "ids": np.array([3, 4], np.int32),
        "positions": np.array([0, 1], np.int32),
        "states": [made.new_state()],
        "rows": [2],
        "logit_rows": np.array([1], np.int32),
        "hidden_rows": np.array([0, 1], np.int32),
        "logits": np.zeros((1, 32), np.float32),
        "hidden": np.zeros((2, HIDDEN), np.float32),
        "adapters": [],
        "top": 0,
        "top_ids": np.zeros(0, np.int32),
        "top_values": np.zeros(0, np.float32),
        "allowed": np.zeros(0, np.uint16),
    }
    assert changes.keys() <= values.keys()
    made.step(*(values | changes).values())


def test_what_the_refusals_start_from_is_valid() -> None:
    step(program())


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_of_a_matrix_must_have_their_size_and_type(format: str) -> None:
    good = arrays(format, VOCABULARY, HIDDEN)

    def build(*parts: Any, rows: int = VOCABULARY, columns: int = HIDDEN) -> None:
        matrix = (FORMATS.index(format), rows, columns, *parts)
        try:
            program(matrices=[matrix])
        except TypeError as error:  # of the arguments, not of the array: a mistake of the test
            raise AssertionError(error) from None

    build(*good)
    for index, array in enumerate(good):
        if array is None:
            continue
        wrong_type = array.view(f"i{array.itemsize}")
        strided = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)[..., ::2]
        wrong = [array[:-1], np.concatenate([array, array[:1]]), wrong_type, strided, None, [1, 2]]
        if array.itemsize > 1:
            wrong.append(array.astype(array.dtype.newbyteorder()))
        for bad in wrong:
            with pytest.raises(ValueError):
                build(*good[:index], bad, *good[index + 1 :])
    for rows, columns in [(0, HIDDEN), (-1, HIDDEN), (VOCABULARY, 0), (36, HIDDEN), (VOCABULARY, 64)]:
        with pytest.raises(ValueError):
            build(*good, rows=rows, columns=columns)
    # Sizes whose product passes 64 bits must not come out as an array that fits.
    empty = [None if array is None else array[:0] for array in good]
    for rows, columns in [(2**31 - 1, 2**31 - 32), (2**31 - 16, 2**30), (16, 2**31 - 32)]:
        with pytest.raises(ValueError):
            build(*empty, rows=rows, columns=columns)


def test_an_array_between_two_addresses_is_refused() -> None:
    values = np.zeros(32 * HIDDEN * 4 + 1, np.uint8)[1:].view(np.float32)
    assert not values.flags.aligned
    with pytest.raises(ValueError):
        program(matrices=[(FORMATS.index("f32"), VOCABULARY, HIDDEN, values, None, None)])


@pytest.mark.parametrize("format", [-1, len(FORMATS), 2**31 - 1])
def test_unknown_formats_are_refused(format: int) -> None:
    with pytest.raises(ValueError, match="format"):
        program(matrices=[(format, VOCABULARY, HIDDEN, *arrays("i8", VOCABULARY, HIDDEN))])


IMPOSSIBLE_PROGRAMS: list[dict[str, Any]] = [
    {"isa": "sse9"},
    {"isa": ""},
    {"threads": 0},
    {"threads": 10_000},
    {"shape": (0, VOCABULARY, HIDDEN, 100)},
    {"shape": (8, VOCABULARY + 1, HIDDEN, 100)},
    {"shape": (8, VOCABULARY, HIDDEN + 1, 100)},
    {"shape": (8, VOCABULARY, HIDDEN, 0)},
    {"layers": [(2**31 - 1, 1, 2**31 - 1, 0, 1.0)]},
    {"layers": [(3, 2, 16, 0, 1.0)]},
    {"buffers": [HIDDEN]},
    {"buffers": [HIDDEN, 16]},
    {"quantised": [(33, False)]},
    {"vectors": [np.ones(HIDDEN, np.float64)]},
    {"vectors": [np.ones(HIDDEN - 1, np.float32)]},
    {"vectors": [np.ones(2 * HIDDEN, np.float32)[::2]]},
    {"vectors": []},
    {"rotations": ["x"]},
    {"instructions": [(99, 0, 0, 0, 0, 0, 0, HIDDEN, 0, 1.0)]},
    {"instructions": [(-1, 0, 0, 0, 0, 0, 0, HIDDEN, 0, 1.0)]},
    {"instructions": [(0, 3, 0, 0, 0, 0, 0, HIDDEN, 0, 1.0)]},
    {"instructions": [(0, 0, 5, 0, 0, 0, 0, HIDDEN, 0, 1.0)]},
]


@pytest.mark.parametrize("changes", IMPOSSIBLE_PROGRAMS)
def test_programs_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        program(**changes)


def read_only(*shape: int) -> NDArray[np.float32]:
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


IMPOSSIBLE_STEPS: list[dict[str, Any]] = [
    {"ids": np.array([3, 4], np.int64)},
    {"ids": np.array([3, 4], np.float32)},
    {"ids": np.array([3, 0, 4, 0], np.int32)[::2]},
    {"ids": np.array([3], np.int32)},
    {"ids": np.array([3, VOCABULARY], np.int32)},
    {"ids": np.array([3, -1], np.int32)},
    {"ids": b"12345678"},
    {"positions": np.array([0], np.int32)},
    {"positions": np.array([1, 2], np.int32)},
    {"rows": [1]},
    {"rows": [3]},
    {"rows": []},
    {"states": []},
    {"logit_rows": np.array([2], np.int32)},
    {"logit_rows": np.array([-1], np.int32)},
    {"logit_rows": np.array([0, 1], np.int32)},
    {"logits": np.zeros((1, VOCABULARY), np.float32)},
    {"logits": np.zeros((1, 32), np.float64)},
    {"logits": np.zeros((1, 64), np.float32)[:, ::2]},
    {"logits": read_only(1, 32)},
    {"hidden": np.zeros((1, HIDDEN), np.float32)},
    {"hidden": np.zeros((3, HIDDEN), np.float32)},
    {"hidden": read_only(2, HIDDEN)},
    {"hidden": 3},
    {"top": -1},
    {"top": 2},
    {"top": VOCABULARY + 1, "top_ids": np.zeros(VOCABULARY + 1, np.int32)},
    {"top": 1, "top_ids": np.zeros(1, np.int32), "top_values": np.zeros(1, np.float32)},
]


@pytest.mark.parametrize("changes", IMPOSSIBLE_STEPS)
def test_steps_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    made = program()
    state = made.new_state()
    with pytest.raises(ValueError):
        step(made, **{"states": [state], **changes})
    assert state.length == 0


def test_states_of_others_and_doubled_ones_are_refused() -> None:
    made = program()
    state = made.new_state()
    pair = {"rows": [1, 1], "positions": np.zeros(2, np.int32)}
    for other in (state, program().new_state()):
        with pytest.raises(ValueError):
            step(made, states=[state, other], **pair)
    for missing in (None, 3):
        with pytest.raises((TypeError, ValueError)):
            step(made, states=[state, missing], **pair)
    assert state.length == 0


def test_row_reductions_check_their_arrays() -> None:
    made = program()
    row, ids, values = np.arange(50, dtype=np.float32), np.zeros(3, np.int32), np.zeros(3, np.float32)
    assert made.top_k(row, ids, values) == 3
    assert ids.tolist() == [49, 48, 47]
    wrong: list[tuple[Any, Any, Any]] = [
        (row.astype(np.float64), ids, values),
        (row[::2], ids, values),
        (row, ids.astype(np.int64), values),
        (row, ids, values[:2]),
        (row, ids, read_only(3)),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError):
            made.top_k(*arguments)
    with pytest.raises(ValueError):
        made.log_sum_exp(row.astype(np.float16))


def test_a_price_of_negative_positions_is_refused() -> None:
    for positions, rows in ((-1, 0), (0, -1), (-(2**31), 2**31 - 1)):
        with pytest.raises(ValueError):
            program().price(positions, rows)


def test_a_program_keeps_its_weights_alive() -> None:
    table = np.full((2, 37, 16), 0.5, np.float32)
    made = program(
        shape=(8, VOCABULARY, 37, 100),
        buffers=[37],
        matrices=[(FORMATS.index("f32"), VOCABULARY, 37, table, None, None)],
        instructions=[
            (int(Op.EMBED), 0, 0, 0, 0, 0, 0, 37, 0, 3.0),
            (int(Op.SELECT), ROWS["hidden"], OUTPUTS["hidden"], 0, 0, 0, 0, 37, 0, 0.0),
        ],
    )
    del table
    gc.collect()
    hidden = np.zeros((2, 48), np.float32)
    step(made, hidden=hidden)
    np.testing.assert_array_equal(hidden[:, :37], np.full((2, 37), 1.5, np.float32))


@pytest.mark.parametrize("name", ["avx1024", "AVX2", " portable"])
def test_an_unknown_instruction_set_is_a_config_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMLET_ISA", name)
    with pytest.raises(ConfigError, match="GEMLET_ISA") as caught:
        choose_instruction_set()
    assert all(name in str(caught.value.hint) for name in ["portable", *SETS])


def test_the_environment_names_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETS:
        monkeypatch.setenv("GEMLET_ISA", name)
        assert choose_instruction_set() == name
    for unset in ("", "auto"):
        monkeypatch.setenv("GEMLET_ISA", unset)
        assert choose_instruction_set() == SETS[-1]


def test_the_native_cache_has_one_type() -> None:
    with pytest.raises(InvalidRequestError, match="float16"):
        NativeExecutor(Program(lambda ops: None, (CacheLayer(1, 16, None),), 9, 9, 9), cache_type="float32")


# Every block kind in one model. K kinds want rows of 256, so the widths are multiples of it.
