"""A forward pass written down once as the flat list of instructions that the native program runs.

Recording gives every value a number; lowering then places the values in reusable row buffers and inserts the
quantisation that a block-format matrix wants of its input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from gemlet.ops.operations import Float32, Rows
from gemlet.ops.packed import BLOCK, Packed


class Op(IntEnum):
    """Numbered as in native/include/gemlet/program.h."""

    EMBED = 0
    NORM = 1
    ADD = 2
    GELU_GATE = 3
    ROPE = 4
    QUANTISE = 5
    LINEAR = 6
    STORE_KEY_VALUE = 7
    ATTEND = 8
    SELECT = 9
    SILU_GATE = 10
    ADD_BIAS = 11


ROWS = {"all": 0, "logits": 1, "hidden": 2}
OUTPUTS: dict[Rows, int] = {"logits": -1, "hidden": -2}
SPREAD = (Op.LINEAR, Op.ATTEND)
"""Operations whose work is split over outputs; all others are split over rows."""


class Layer(NamedTuple):
    """One layer's attention; window 0 sees everything before."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    scale: float


class Instruction(NamedTuple):
    """As in native/include/gemlet/program.h. While recording, `out`, `a` and `b` are value numbers."""

    op: Op
    rows: int
    out: int
    a: int = 0
    b: int = 0
    weight: int = 0
    layer: int = 0
    width: int = 0
    group: int = 0
    value: float = 0.0


@dataclass(frozen=True)
class Value:
    """Handle of a recorded result: its number, its floats a row, and which rows it has."""

    number: int
    width: int
    rows: int


@dataclass
class Recorder:
    """`Operations` that write down what they are asked."""

    instructions: list[Instruction] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    matrices: list[Packed] = field(default_factory=list)
    vectors: list[Float32] = field(default_factory=list)
    rotations: list[tuple[int, float, tuple[float, ...]]] = field(default_factory=list)
    layers: dict[int, Layer] = field(default_factory=dict)
    precise: set[int] = field(default_factory=set)
    outputs: dict[int, Rows] = field(default_factory=dict)

    def embed(self, table: Packed, scale: float) -> Value:
        return self._add(Op.EMBED, table.columns, ROWS["all"], weight=self._matrix(table), value=scale)

    def norm(self, x: Value, weight: Float32, eps: float) -> Value:
        self.vectors.append(np.ascontiguousarray(weight, np.float32))
        number = len(self.vectors) - 1
        return self._add(Op.NORM, x.width, x.rows, a=x.number, weight=number, group=len(weight), value=eps)

    def linear(self, x: Value, weight: Packed, precise: bool = False) -> Value:
        if precise:
            self.precise.add(len(self.instructions))
        return self._add(Op.LINEAR, weight.rows, x.rows, a=x.number, weight=self._matrix(weight))

    def add_bias(self, x: Value, bias: Float32) -> Value:
        self.vectors.append(np.ascontiguousarray(bias, np.float32))
        return self._add(Op.ADD_BIAS, x.width, x.rows, a=x.number, weight=len(self.vectors) - 1)

    def rope(self, x: Value, head_dim: int, theta: float, divisors: tuple[float, ...] = ()) -> Value:
        if (head_dim, theta, divisors) not in self.rotations:
            self.rotations.append((head_dim, theta, divisors))
        table = self.rotations.index((head_dim, theta, divisors))
        return self._add(Op.ROPE, x.width, x.rows, a=x.number, weight=table, group=head_dim)

    def attend(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None,
    ) -> Value:
        self.layers[layer] = Layer(heads, kv_heads, head_dim, window or 0, scale)
        store = Instruction(Op.STORE_KEY_VALUE, k.rows, -1, k.number, v.number, layer=layer, width=k.width)
        self.instructions.append(store)
        return self._add(Op.ATTEND, q.width, q.rows, a=q.number, layer=layer)

    def gelu_gate(self, gate: Value, up: Value) -> Value:
        return self._add(Op.GELU_GATE, gate.width, gate.rows, a=gate.number, b=up.number)

    def silu_gate(self, gate: Value, up: Value) -> Value:
        return self._add(Op.SILU_GATE, gate.width, gate.rows, a=gate.number, b=up.number)

    def add(self, x: Value, y: Value) -> Value:
        return self._add(Op.ADD, x.width, x.rows, a=x.number, b=y.number)

    def select(self, x: Value, rows: Rows) -> Value:
        return self._add(Op.SELECT, x.width, ROWS[rows], a=x.number)

    def output(self, name: Rows, x: Value) -> None:
        self.outputs[x.number] = name

    def _add(self, op: Op, width: int, rows: int, **fields: int | float) -> Value:
        value = Value(len(self.values), width, rows)
        self.values.append(value)
        self.instructions.append(Instruction(op, rows, value.number, width=width, **fields))  # type: ignore[arg-type]
        return value

    def _matrix(self, weight: Packed) -> int:
        for number, known in enumerate(self.matrices):
            if known is weight:
                return number
        self.matrices.append(weight)
        return len(self.matrices) - 1


class Pool:
    """Numbers of buffers of one kind, handed out again once what they held is no longer needed."""

    def __init__(self) -> None:
        self.kinds: list[tuple[int, bool]] = []
        self._free: dict[tuple[int, bool], list[int]] = {}
        self._released: list[int] = []

    def take(self, width: int, precise: bool = False) -> int:
        kind = (width, precise)
        if self._free.get(kind):
            return self._free[kind].pop()
        self.kinds.append(kind)
        return len(self.kinds) - 1

    def release(self, number: int) -> None:
        self._released.append(number)

    def settle(self) -> None:
        """Free what was released: between two barriers a thread may still be reading it."""
        for number in self._released:
            self._free.setdefault(self.kinds[number], []).append(number)
        self._released.clear()


@dataclass
class Lowered:
    """Instructions over buffers. buffers: floats a row; quantised: columns, and whether 16 bits are kept."""

    instructions: list[Instruction]
    buffers: list[int]
    quantised: list[tuple[int, bool]]


def lower(recorder: Recorder) -> Lowered:
    """Place the recorded values in buffers, reusing each after its last reader."""
    return _Lowering(recorder).run()


class _Lowering:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.floats, self.codes = Pool(), Pool()
        self.place: dict[int, int] = {}
        self.code_place: dict[tuple[int, bool], int] = {}
        self.lowered: list[Instruction] = []
        self.last_reader: dict[int, int] = {}
        for index, instruction in enumerate(recorder.instructions):
            for number in _reads(instruction):
                self.last_reader[number] = index
        read_outputs = [name for number, name in recorder.outputs.items() if number in self.last_reader]
        if read_outputs:
            raise ValueError(f"an output is read again: {read_outputs}")

    def run(self) -> Lowered:
        for index, instruction in enumerate(self.recorder.instructions):
            self._lower(index, instruction)
            for number in set(_reads(instruction)):
                if self.last_reader[number] == index:
                    self._release(number)
        return Lowered(self.lowered, [width for width, _ in self.floats.kinds], self.codes.kinds)

    def _lower(self, index: int, instruction: Instruction) -> None:
        a = self.place.get(instruction.a, 0)
        b = self.place.get(instruction.b, 0)
        if instruction.op is Op.LINEAR:
            b = a  # an adapter's product is made with the rows themselves
            weight = self.recorder.matrices[instruction.weight]
            if weight.format.startswith("i"):
                a = self._quantised(instruction, weight.columns, index in self.recorder.precise)
        self._settle_before(instruction.op)
        out = self._output(instruction)
        self.lowered.append(instruction._replace(a=a, b=b, out=out))

    def _output(self, instruction: Instruction) -> int:
        if instruction.op is Op.STORE_KEY_VALUE:
            return 0
        if instruction.out in self.recorder.outputs:
            return OUTPUTS[self.recorder.outputs[instruction.out]]
        self.place[instruction.out] = self.floats.take(instruction.width)
        return self.place[instruction.out]

    def _quantised(self, instruction: Instruction, columns: int, precise: bool) -> int:
        assert columns % BLOCK == 0
        key = (instruction.a, precise)
        if key not in self.code_place:
            self._settle_before(Op.QUANTISE)
            self.code_place[key] = self.codes.take(columns, precise)
            self.lowered.append(
                Instruction(
                    Op.QUANTISE,
                    instruction.rows,
                    self.code_place[key],
                    self.place[instruction.a],
                    width=columns,
                )
            )
        return self.code_place[key]

    def _settle_before(self, op: Op) -> None:
        if self.lowered and (self.lowered[-1].op in SPREAD) != (op in SPREAD):
            self.floats.settle()
            self.codes.settle()

    def _release(self, number: int) -> None:
        self.floats.release(self.place[number])
        for precise in (False, True):
            if (number, precise) in self.code_place:
                self.codes.release(self.code_place.pop((number, precise)))


def _reads(instruction: Instruction) -> Iterable[int]:
    if instruction.op is Op.EMBED:
        return ()
    if instruction.op in (Op.ADD, Op.GELU_GATE, Op.SILU_GATE, Op.STORE_KEY_VALUE):
        return instruction.a, instruction.b
    return (instruction.a,)
