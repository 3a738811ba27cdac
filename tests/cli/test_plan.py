"""`gemlet plan` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from gemlet.cli.plan_table import table
from gemlet.evaluate import planned
from tests.plan_prices import GOOD
from tests.synthetic import tiny_config, write_tiny_gguf

ELSEWHERE = ["--ram", "4", "--bandwidth", "40", "--cores", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(0), "Q8_0")
    return path


def plan(capsys: pytest.CaptureFixture[str], *flags: str) -> dict:
    assert main(["plan", "--json", "-q", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_known_name_is_planned_without_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "-m", "gemma-3-1b-it", "--context", "8192", "--streams", "4", *ELSEWHERE)
    assert found["parameters"] == 999_885_952
    assert found["fit"]["fits"] is True
    forecast = found["forecast"]
    assert forecast["memory_bytes"] > sum(found["weights"]["types"].values())
    assert list(forecast["streams"]) == ["1", "2", "4"]
    assert list(found["step_seconds"]) == ["1", "2", "4", "8", "16", "32", "64", "128", "256", "512"]
    assert found["rule_of_thumb_bytes"]["int4"][0] == round(999_885_952 * 0.6 * 1.3)
    assert plan(capsys, "-m", "gemma-3-1b-it", "--context", "8192", "--streams", "4", *ELSEWHERE) == found


def test_what_does_not_fit_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--ram", "0.95", "--bandwidth", "40", "--cores", "4"]
    flags = ["-m", "gemma-3-1b-it", "--streams", "8"]
    found = plan(capsys, *flags, *small)
    assert found["fit"]["fits"] is False
    for change in found["fit"]["changes"]:
        asked = [
            "-m",
            "gemma-3-1b-it",
            "--context",
            str(change["context"]),
            "--streams",
            str(change["streams"]),
        ]
        asked += [] if change["weights"] is None else ["--weights", change["weights"]]
        again = plan(capsys, *asked, *small)
        assert again["fit"]["fits"] is True
        assert again["forecast"]["memory_bytes"] == change["memory_bytes"]
    assert main(["plan", "-q", *flags, *small]) == 0
    said = capsys.readouterr().out
    assert "no: 950.0 MB can be used" in said
    assert "--weights int4" in said


def test_this_machine_is_measured(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "-m", str(model), "--context", "256", "--threads", "1")
    assert found["machine"]["described"] is False
    assert found["machine"]["threads"] == 1
    assert found["machine"]["memory"] > 0
    assert found["path"] == str(model)


def test_forecast_stands_beside_measurement(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemlet.cli.plan.ROUNDS", 1)
    monkeypatch.setattr(planned, "STEPS", 2)
    flags = ["-m", str(model), "--context", "1500", "--streams", "2", "--threads", "1", "--measure"]
    found = plan(capsys, *flags)
    told = found["measured"]
    assert told["memory_bytes"] > 0
    assert told["streams"].keys() == found["forecast_then"]["streams"].keys() == {"1", "2"}
    for name in ("memory_bytes", "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s"):
        assert found["ratio"][name] == pytest.approx(found["forecast_then"][name] / told[name])
    assert any("forecast    measured   ratio" in line for line in table(found))


def test_prices(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prices.toml").write_text(GOOD)
    flags = ["-m", str(model), "--context", "256", *ELSEWHERE, "--prices", str(tmp_path / "prices.toml")]
    found = plan(capsys, *flags)
    assert found["cost"]["own"]["an_hour"] == pytest.approx(0.0195)
    assert found["cost"]["hosted"][0]["name"] == "some model"
    assert main(["plan", *flags]) == 0
    assert "the bill, 2026-01-31" in capsys.readouterr().out


def test_the_template_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--prices-template"]) == 0
    assert "[[hosted]]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--bandwidth", "40"], 2, "--cores is missing"),
        (["--cores", "4"], 2, "--bandwidth is missing"),
        (["--bandwidth", "0", "--cores", "4"], 2, "--bandwidth must be"),
        (["--bandwidth", "nan", "--cores", "4"], 2, "--bandwidth must be"),
        (["--ram", "-1"], 2, "--ram must be"),
        (["--measure", "--ram", "4"], 2, "runs the model here"),
        (["--context", "99999", *ELSEWHERE], 2, "the context holds 32768"),
        (["--context", "4", *ELSEWHERE], 2, "at least 32"),
        (["--streams", "0", *ELSEWHERE], 2, "--streams must be"),
        (["--answer", "4096", *ELSEWHERE], 2, "--answer must be"),
        (["--weights", "int3", *ELSEWHERE], 2, "int3"),
        (["--instruction-set", "sse", *ELSEWHERE], 2, "measured were"),
        (["--prices", "/none.toml", *ELSEWHERE], 7, "--prices-template"),
        (["--measure"], 2, "nothing to measure"),
        (["-m", "no-such-model", *ELSEWHERE], 4, "no model named"),
        (["-m", "/none.gguf", *ELSEWHERE], 4, "no such file"),
        (["-m", "/none/config.json", *ELSEWHERE], 4, "no such file"),
    ],
)
def test_wrong_input(flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = [] if "-m" in flags else ["-m", "gemma-3-1b-pt"]
    assert main(["plan", *model, *flags]) == code
    assert said in capsys.readouterr().err
