"""Recording and lowering: the instructions over buffers compute what was written down, for any program.

Lowered programs are interpreted with symbols for numbers. A value overwritten too early, or a buffer that two
live values share, makes another symbol.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gemlet.ops.packed import Packed
from gemlet.ops.record import SPREAD, Instruction, Lowered, Op, Pool, Recorder, Value, lower

Symbol = object
WIDTHS = (32, 64)
ROW_SETS = {0: "all", 1: "logits", 2: "hidden"}


@functools.cache
def symbol(*parts: object) -> Symbol:
    """One object for equal parts: comparing two results does not walk through what they were made of."""
    return object()


def matrix(rows: int, columns: int, format: Any) -> Packed:
    """Only its shape and format matter here."""
    return Packed(format, rows, columns, {})


class Tracer:
    """`Operations` on symbols beside a recorder: every handle is (recorded value, symbol)."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.outputs: dict[str, Symbol] = {}
        self.stored: dict[int, Symbol] = {}

    def embed(self, weight: Packed) -> tuple[Value, Symbol]:
        return self.recorder.embed(weight, 2.0), symbol(Op.EMBED, id(weight), 2.0)

    def norm(self, x: tuple[Value, Symbol]) -> tuple[Value, Symbol]:
        value = self.recorder.norm(x[0], np.ones(16, np.float32), 1e-6)
        return value, symbol(Op.NORM, x[1], len(self.recorder.vectors) - 1, 16)

    def linear(self, x: tuple[Value, Symbol], weight: Packed, precise: bool) -> tuple[Value, Symbol]:
        quantised = weight.format.startswith("i")
        read = symbol(Op.QUANTISE, x[1], precise) if quantised else x[1]
        return self.recorder.linear(x[0], weight, precise), symbol(Op.LINEAR, read, id(weight))

    def rope(self, x: tuple[Value, Symbol]) -> tuple[Value, Symbol]:
        return self.recorder.rope(x[0], 16, 1e4), symbol(Op.ROPE, x[1], 0, 16)

    def attend(self, q: Any, k: Any, v: Any, layer: int) -> tuple[Value, Symbol]:
        heads, kv_heads = q[0].width // 16, k[0].width // 16
        self.stored[layer] = symbol(Op.STORE_KEY_VALUE, k[1], v[1])
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": 16, "scale": 1.0, "window": None}
        value = self.recorder.attend(q[0], k[0], v[0], layer=layer, **shape)
        return value, symbol(Op.ATTEND, q[1], self.stored[layer])

    def pair(self, op: Op, x: tuple[Value, Symbol], y: tuple[Value, Symbol]) -> tuple[Value, Symbol]:
        call = self.recorder.add if op is Op.ADD else self.recorder.gelu_gate
        return call(x[0], y[0]), symbol(op, x[1], y[1])

    def select(self, x: tuple[Value, Symbol], rows: Any) -> tuple[Value, Symbol]:
        return self.recorder.select(x[0], rows), symbol(Op.SELECT, x[1], rows)

    def output(self, name: Any, x: tuple[Value, Symbol]) -> None:
        self.recorder.output(name, x[0])
        self.outputs[name] = x[1]


class Machine:
    """Runs lowered instructions on symbols, and watches what threads that are not held apart could meet."""

    def __init__(self, recorder: Recorder, lowered: Lowered) -> None:
        self.recorder, self.lowered = recorder, lowered
        self.floats: dict[int, Symbol] = {}
        self.codes: dict[int, Symbol] = {}
        self.stored: dict[int, Symbol] = {}
        self.read: set[tuple[str, int]] = set()
        self.written: set[tuple[str, int]] = set()

    def run(self) -> dict[str, Symbol]:
        previous: Instruction | None = None
        for instruction in self.lowered.instructions:
            self.watch(previous, instruction)
            self.execute(instruction)
            previous = instruction
        return {"logits": self.floats[-1], "hidden": self.floats[-2]}

    def watch(self, previous: Instruction | None, now: Instruction) -> None:
        """Nothing may be written in a run of spread operations that another of them reads or writes.

        Threads meet only where row operations and spread ones change places, and where one reads a product.
        """
        reads, writes = self.touched(now)
        if previous is None or (previous.op in SPREAD) != (now.op in SPREAD):
            self.read, self.written = set(), set()
        elif now.op in SPREAD:
            assert not writes & (self.read | self.written), f"{now} writes what its run uses"
        self.read |= reads
        self.written |= writes

    def touched(self, now: Instruction) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        block = now.op is Op.LINEAR and self.recorder.matrices[now.weight].format.startswith("i")
        reads = {("codes" if block else "floats", now.a)}
        writes = {("codes" if now.op is Op.QUANTISE else "floats", now.out)}
        if now.op in (Op.ADD, Op.GELU_GATE, Op.STORE_KEY_VALUE):
            reads.add(("floats", now.b))
        return (set() if now.op is Op.EMBED else reads), (set() if now.op is Op.STORE_KEY_VALUE else writes)

    def execute(self, now: Instruction) -> None:
        a, b = self.floats.get(now.a), self.floats.get(now.b)
        if now.op is Op.QUANTISE:
            columns, precise = self.lowered.quantised[now.out]
            assert columns == now.width == self.lowered.buffers[now.a]
            self.codes[now.out] = symbol(Op.QUANTISE, a, precise)
            return
        if now.op is Op.STORE_KEY_VALUE:
            self.stored[now.layer] = symbol(Op.STORE_KEY_VALUE, a, b)
            return
        if now.out >= 0:
            assert self.lowered.buffers[now.out] == now.width
        self.floats[now.out] = self.result(now, a, b)

    def result(self, now: Instruction, a: Symbol, b: Symbol) -> Symbol:
        if now.op is Op.EMBED:
            return symbol(Op.EMBED, id(self.recorder.matrices[now.weight]), now.value)
        if now.op is Op.NORM:
            return symbol(Op.NORM, a, now.weight, now.group)
        if now.op is Op.ROPE:
            return symbol(Op.ROPE, a, now.weight, now.group)
        if now.op is Op.ATTEND:
            return symbol(Op.ATTEND, a, self.stored[now.layer])
        if now.op is Op.SELECT:
            return symbol(Op.SELECT, a, ROW_SETS[now.rows])
        if now.op is Op.LINEAR:
            weight = self.recorder.matrices[now.weight]
            return symbol(Op.LINEAR, self.codes[now.a] if weight.format.startswith("i") else a, id(weight))
        return symbol(now.op, a, b)


def random_program(rng: random.Random, steps: int) -> Tracer:
    """Any operations in any order on any values made so far, old ones too; then both outputs."""
    tracer = Tracer()
    table = matrix(100, 32, "i8")
    weights = {
        (out, width): [matrix(out, width, f) for f in ("i4", "f32")] for out in WIDTHS for width in WIDTHS
    }
    values: dict[int, list[Any]] = defaultdict(list)
    values[32].append(tracer.embed(table))
    layers = 0

    def add(result: Any) -> None:
        values[result[0].width].append(result)

    for _ in range(steps):
        width = rng.choice([w for w in WIDTHS if values[w]])
        recent = values[width][-4:] if rng.random() < 0.8 else values[width]
        x, y = rng.choice(recent), rng.choice(recent)
        choice = rng.randrange(8)
        if choice <= 2:
            add(tracer.linear(x, rng.choice(weights[rng.choice(WIDTHS), width]), rng.random() < 0.3))
        elif choice == 3:
            add(tracer.norm(x))
        elif choice == 4:
            add(tracer.rope(x))
        elif choice == 5:
            add(tracer.attend(x, rng.choice(values[32]), rng.choice(values[32]), layers))
            layers += 1
        else:
            add(tracer.pair(rng.choice([Op.ADD, Op.GELU_GATE]), x, y))
    for name in rng.sample(["logits", "hidden"], 2):
        x = tracer.select(rng.choice(values[32]), name)
        normed = tracer.norm(x)
        tracer.output(name, tracer.linear(normed, table, True) if name == "logits" else normed)
    return tracer


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_compute_what_was_written_down(seed: int) -> None:
    rng = random.Random(seed)
    tracer = random_program(rng, rng.randrange(1, 60))
    machine = Machine(tracer.recorder, lower(tracer.recorder))
    assert machine.run() == tracer.outputs
    assert machine.stored == tracer.stored


def free_at_once(self: Pool, number: int) -> None:
    self._free.setdefault(self.kinds[number], []).append(number)


def always_the_same(self: Pool, width: int, precise: bool = False) -> int:
    if (width, precise) not in self.kinds:
        self.kinds.append((width, precise))
    return self.kinds.index((width, precise))


@pytest.mark.parametrize(("name", "fault"), [("release", free_at_once), ("take", always_the_same)])
def test_a_shared_buffer_is_noticed(name: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself must fail on a lowering that hands buffers out too early."""

    def is_right(seed: int) -> bool:
        tracer = random_program(random.Random(seed), 50)
        try:
            return Machine(tracer.recorder, lower(tracer.recorder)).run() == tracer.outputs
        except AssertionError:
            return False

    assert all(is_right(seed) for seed in range(20))
    monkeypatch.setattr(Pool, name, fault)
    assert not all(is_right(seed) for seed in range(20))


def test_buffers_are_reused() -> None:
    """A deep program needs no more room than a shallow one."""

    def count(depth: int) -> tuple[int, int]:
        tracer = Tracer()
        weight = matrix(32, 32, "i4")
        x = tracer.embed(weight)
        for layer in range(depth):
            q, k, v = (tracer.linear(tracer.norm(x), weight, False) for _ in range(3))
            x = tracer.pair(Op.ADD, x, tracer.attend(q, k, v, layer))
        tracer.output("logits", tracer.select(x, "logits"))
        lowered = lower(tracer.recorder)
        return len(lowered.buffers), len(lowered.quantised)

    assert count(3) == count(30)


def test_a_value_is_quantised_once_for_each_precision() -> None:
    tracer = Tracer()
    weight = matrix(32, 32, "i4")
    x = tracer.embed(weight)
    for precise in (False, True, False, True):
        tracer.linear(x, weight, precise)
    ops = [instruction.op for instruction in lower(tracer.recorder).instructions]
    assert ops.count(Op.QUANTISE) == 2
    assert ops.count(Op.LINEAR) == 4


def test_dense_products_read_floats() -> None:
    tracer = Tracer()
    tracer.linear(tracer.embed(matrix(8, 24, "bf16")), matrix(5, 24, "f16"), False)
    lowered = lower(tracer.recorder)
    assert [i.op for i in lowered.instructions] == [Op.EMBED, Op.LINEAR]
    assert lowered.buffers == [24, 5]
    assert lowered.quantised == []


@pytest.mark.parametrize(
    "read",
    [
        lambda tracer, x: tracer.norm(x),
        lambda tracer, x: tracer.pair(Op.ADD, x, x),
        lambda tracer, x: tracer.linear(x, matrix(32, 32, "i8"), False),
        lambda tracer, x: tracer.select(x, "logits"),
    ],
)
def test_an_output_read_again_is_refused(read: Callable[[Tracer, Any], Any]) -> None:
    tracer = Tracer()
    hidden = tracer.norm(tracer.select(tracer.embed(matrix(100, 32, "i8")), "hidden"))
    tracer.output("hidden", hidden)
    read(tracer, hidden)
    with pytest.raises(ValueError, match="hidden"):
        lower(tracer.recorder)


def test_weights_and_rotations_are_kept_once() -> None:
    recorder = Recorder()
    weight = matrix(32, 32, "i4")
    x = recorder.embed(weight, 1.0)
    for _ in range(3):
        x = recorder.rope(recorder.linear(x, weight), 16, 1e4)
    recorder.rope(x, 16, 1e6)
    assert recorder.matrices == [weight]
    assert recorder.rotations == [(16, 1e4, ()), (16, 1e6, ())]
