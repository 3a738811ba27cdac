"""Measuring speed: what is planned, measured, told and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemlet.errors import MissingExtraError, UnsupportedParameterError
from gemlet.evaluate import speed
from gemlet.evaluate.record import commit, spread
from gemlet.evaluate.speed import measure, plan_speed
from gemlet.evaluate.speed_plot import check_plot, plot
from gemlet.evaluate.speed_result import describe_stage, memory_rows, table, table_row
from gemlet.evaluate.stages import QUICK, STAGES, Plan, Samples, Stage
from gemlet.model.work import Work
from gemlet.ops.limits import Limits


@pytest.fixture(scope="module")
def result(tiny_model: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "PAUSE_S", 0.0)
        said: list[str] = []
        found = measure(plan_speed(tiny_model, threads=1, rounds=2, tokens=4, quick=True), said.append)
        assert any(text.startswith("round 2 of 2: decode") for text in said)
        return found


def test_a_result_holds_every_round_beside_its_limits(result: dict) -> None:
    json.dumps(result)
    assert [stage["name"] for stage in result["stages"]] == list(QUICK)
    for stage in result["stages"]:
        assert len(stage["values"]["gemlet"]) == len(stage["limits"]) == len(stage["limit"]) == 2
        assert all(share > 0 for share in stage["shares"]["gemlet"])
        assert all(value > 0 for value in stage["values"]["gemlet"])
    memory = result["memory"]
    assert memory["resident"] == memory["weights"] + memory["kv"] + memory["rest"]
    assert "4096" in memory["kv_price"]


def test_a_result_says_where_it_comes_from(result: dict, tiny_model: Path) -> None:
    assert result["files"]["tiny.gguf"]["bytes"] == tiny_model.stat().st_size
    assert {"gemlet", "numpy", "python"} <= set(result["versions"])
    assert result["settings"]["threads"] == 1 and result["settings"]["rounds"] == 2
    assert result["machine"]["threads"] >= 1
    assert result["commit"] == commit()


def test_the_table_has_a_line_for_each_stage(result: dict) -> None:
    text = "\n".join(table(result))
    for words in ("prefill 512, tokens/s", "first token after 16, s", "GB/s", "resident", "1 threads"):
        assert words in text


def test_stages_that_do_not_fit_the_context_are_left_out(tiny_model: Path) -> None:
    everything = plan_speed(tiny_model, tokens=32)
    assert everything.stages == STAGES and everything.rounds == 7
    shorter = plan_speed(tiny_model, tokens=256, quick=False)
    assert shorter.stages == STAGES
    assert max(stage.tokens for stage in everything.stages) + 2 * 32 <= everything.context


@pytest.mark.parametrize("against", ["ollama", ""])
def test_an_unknown_peer_is_refused(tiny_model: Path, against: str) -> None:
    with pytest.raises(UnsupportedParameterError, match=r"llama\.cpp is known"):
        plan_speed(tiny_model, against=against)


def samples() -> tuple[Plan, Stage, Samples]:
    stage = Stage("decode, 4 streams", "streams", 0, 4)
    plan = Plan(Path("m.gguf"), 2, "why", 3, 8, (stage,), 4096, "llama.cpp")
    taken = Samples()
    taken.seconds["decode, 4 streams"] = {"gemlet": [0.1, 0.2, 0.4], "llama.cpp": [0.4, 0.4, 0.4]}
    taken.limits["decode, 4 streams"] = [
        Limits(10.0, 100.0, 1.0),
        Limits(20.0, 100.0, 1.0),
        Limits(5.0, 100.0, 1.0),
    ]
    taken.work["decode, 4 streams"] = Work(1, 1, 0)
    return plan, stage, taken


def test_ratios_and_shares_are_taken_round_by_round() -> None:
    plan, stage, taken = samples()
    row = table_row(stage, plan, taken)
    assert row["what"] == "decode, 4 streams, tokens/s"
    assert row["gemlet"] == {"median": 20.0, "low": 10.0, "high": 40.0}
    assert row["times as fast"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    # Limits allow 0.1, 0.05 and 0.2 seconds: shares of 1, 0.25 and 0.5.
    assert row["of the limit"] == "50 %"
    assert row["limit"] == {"median": 40.0, "low": 20.0, "high": 80.0}
    described = describe_stage(stage, taken)
    assert described["shares"]["gemlet"] == pytest.approx([1.0, 0.25, 0.5])
    assert described["shares"]["llama.cpp"] == pytest.approx([0.25, 0.125, 0.5])
    assert described["bound"] == "memory"


def test_memory_has_lines_with_the_columns_of_the_stages() -> None:
    plan, stage, taken = samples()
    taken.memory = {
        "gemlet": [{"resident": 300 << 20, "weights": 200 << 20, "kv": 60 << 20}] * 2,
        "llama.cpp": [{"resident": 500 << 20}],
    }
    resident, beside = memory_rows(plan, taken)
    assert list(resident) == list(beside) == list(table_row(stage, plan, taken))
    assert resident["gemlet"]["median"] == 300 and resident["llama.cpp"]["median"] == 500
    assert beside["gemlet"]["median"] == 40 and beside["llama.cpp"] is None


def test_a_latency_is_faster_when_it_is_shorter() -> None:
    plan, _, taken = samples()
    stage = Stage("decode, 4 streams", "first token", 4)
    row = table_row(stage, plan, taken)
    assert row["gemlet"]["median"] == 0.2 and row["times as fast"]["median"] == 2.0


def test_spread() -> None:
    assert spread([3, 1, 2]) == {"median": 2, "low": 1, "high": 3}


def test_a_plot_is_a_picture(result: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, start in [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]:
        plot(result, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_a_plot_needs_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gemlet\[bench\]"):
        check_plot(tmp_path / "a.png")
