"""The step-cost model: what must hold of it whatever its constants are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemlet.errors import ContextLengthError, InvalidRequestError
from gemlet.ops.limits import Limits
from gemlet.plan.efficiency import at, measured
from gemlet.plan.fit import Machine, Wanted, described, forecast
from gemlet.plan.step_cost import CostModel, Step, prompt_steps
from gemlet.plan.subject import KNOWN, from_name

EFFICIENCY = measured()
RATES = Limits(40e9, 470e9, 118e9)
SUBJECTS = [
    from_name(name, weights)
    for name in ("gemma-3-270m", "gemma-3-1b-it")
    for weights in ("bf16", "int8", "int4")
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: f"{s.name}-{next(iter(s.bytes_by_type))}")
def test_a_step_never_costs_less_for_more_work(subject) -> None:
    model = CostModel(subject, RATES, EFFICIENCY)
    rows = [model.seconds(Step(0, 1, n, 0)) for n in range(1, 257)]
    assert rows == sorted(rows)
    lengths = [model.seconds(Step(n)) for n in (0, 64, 511, 512, 513, 2048, 8192, 32767)]
    assert lengths == sorted(lengths)
    streams = [model.seconds(Step(2048, n, 1, n)) for n in range(1, 65)]
    assert streams == sorted(streams)
    assert model.seconds(Step(0, 1, 4, 4)) > model.seconds(Step(0, 1, 4, 0))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: f"{s.name}-{next(iter(s.bytes_by_type))}")
def test_a_faster_machine_is_never_slower(subject) -> None:
    steps = [Step(0), Step(8192), Step(512, 8, 1, 8), Step(0, 1, 256, 1)]
    for step in steps:
        before = CostModel(subject, RATES, EFFICIENCY).seconds(step)
        for name in ("read_bytes", "byte_products", "float_products"):
            faster = replace(RATES, **{name: 2 * getattr(RATES, name)})
            after = CostModel(subject, faster, EFFICIENCY).seconds(step)
            assert before / 2 <= after <= before


def test_no_step_beats_the_machine() -> None:
    """Reading the weights alone takes as long as the bandwidth allows."""
    for subject in SUBJECTS:
        least = subject.weights.nbytes / RATES.read_bytes
        assert CostModel(subject, RATES, EFFICIENCY).seconds(Step(0)) >= least


def test_streams_together_are_faster_than_one_after_another() -> None:
    for name in KNOWN:
        model = CostModel(from_name(name), RATES, EFFICIENCY)
        assert model.seconds(Step(512, 8, 1, 8)) < 8 * model.seconds(Step(512))


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 512, 1000])
def test_a_prompt_is_its_steps(tokens: int) -> None:
    steps = list(prompt_steps(tokens))
    assert sum(step.rows for step in steps) == tokens
    assert [step.logits for step in steps] == [0] * (len(steps) - 1) + [1]
    assert all(step.length == 256 * n for n, step in enumerate(steps))
    model = CostModel(SUBJECTS[0], RATES, EFFICIENCY)
    assert model.prompt_seconds(tokens) == pytest.approx(sum(map(model.seconds, steps)))


def test_parts_add_up_and_only_what_is_done_costs() -> None:
    model = CostModel(SUBJECTS[1], RATES, EFFICIENCY)
    parts = model.parts(Step(100, 2, 3, 0))
    assert parts.head == 0
    assert parts.total == pytest.approx(parts.layers + parts.attention + parts.fixed)
    assert min(parts.layers, parts.attention, parts.fixed) > 0


def test_a_curve_meets_its_points_and_goes_on_straight() -> None:
    curve = ((1.0, 2.0), (4.0, 4.0), (16.0, 16.0))
    assert [at(curve, x) for x, _ in curve] == pytest.approx([y for _, y in curve])
    assert at(curve, 2) == pytest.approx(8**0.5)
    assert at(curve, 32) == pytest.approx(32)
    assert at(curve, 1) == 2


def test_every_format_and_kind_has_constants() -> None:
    assert {"i4", "i8", "i4m", "i8m", "i8h", "bf16"} <= EFFICIENCY.layers.keys() & EFFICIENCY.head.keys()
    for curve in (*EFFICIENCY.layers.values(), *EFFICIENCY.head.values(), EFFICIENCY.attention):
        assert [x for x, _ in curve] == sorted({x for x, _ in curve})
    assert EFFICIENCY.errors.keys() == {"prefill", "decode", "streams"}
    assert all(0 < error < 1 for error in EFFICIENCY.errors.values())
    assert EFFICIENCY.source.startswith("benchmarks/results/plan-steps-")


def test_a_described_machine_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this machine was asked")

    monkeypatch.setattr("gemlet.ops.limits.measure_limits", refuse)
    monkeypatch.setattr("gemlet.machine.threads", refuse)
    monkeypatch.setattr("gemlet.machine.memory", refuse)

    def plan() -> tuple[Machine, object]:
        found = described(EFFICIENCY, bandwidth=50, cores=4, memory=16, instruction_set="avx512")
        subject = from_name("gemma-3-1b-it")
        return found, forecast(subject, found.rates, Wanted.of(subject, 4096, 4), EFFICIENCY)

    assert plan() == plan()
    one = EFFICIENCY.rates["avx512"]["byte_products"]
    assert plan()[0].rates == Limits(50e9, 4 * one, 4 * EFFICIENCY.rates["avx512"]["float_products"])
    assert plan()[0].memory == 16 * 10**9


@pytest.mark.parametrize(
    "wrong", [{"bandwidth": 0}, {"cores": -1}, {"memory": float("nan")}, {"instruction_set": "sse9"}]
)
def test_an_impossible_machine_is_refused(wrong: dict) -> None:
    good = {"bandwidth": 50.0, "cores": 4, "memory": 8.0, "instruction_set": "avx2"}
    with pytest.raises(InvalidRequestError):
        described(EFFICIENCY, **(good | wrong))


def test_what_is_wanted_is_checked() -> None:
    subject = from_name("gemma-3-1b-it")
    assert Wanted.of(subject, 4096, 5) == Wanted(4096, 5, 256)
    assert Wanted.of(subject, 4096, 5).counts == [1, 2, 4, 5]
    assert Wanted.of(subject, 64, 1).prompt == 48
    with pytest.raises(ContextLengthError):
        Wanted.of(subject, 40000, 1)
    for context, streams, answer in ((16, 1, None), (64, 0, None), (64, 1, 64), (64, 1, 0), (64, 9999, None)):
        with pytest.raises(InvalidRequestError):
            Wanted.of(subject, context, streams, answer)


def test_a_forecast_is_one_model_told_in_several_ways() -> None:
    subject = from_name("gemma-3-270m")
    wanted = Wanted.of(subject, 2048, 4)
    found = forecast(subject, RATES, wanted, EFFICIENCY)
    assert found.prefill_tokens_per_s * found.ttft_s == pytest.approx(wanted.prompt)
    assert list(found.streams) == [1, 2, 4]
    assert found.decode_tokens_per_s == found.streams[1]
    assert found.load.seconds > found.ttft_s
