"""`gemlet bench speed` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from gemlet.evaluate import speed
from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "Tiny_Model.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(0), "Q4_0")
    return path


@pytest.fixture
def bench(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(speed, "PAUSE_S", 0.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    flags = [
        "bench",
        "speed",
        "-m",
        str(model),
        "--quick",
        "--rounds",
        "1",
        "--tokens",
        "2",
        "--threads",
        "1",
    ]
    return lambda *more: main([*flags, *more])


def test_a_table_and_where_the_file_is(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("-o", f"{tmp_path}/results/") == 0
    out, err = capsys.readouterr()
    assert "prefill 512, tokens/s" in out and "of the limit" in out and "resident" in out
    assert "1 threads: asked for" in err and "round 1 of 1" in err
    (written,) = (tmp_path / "results").iterdir()
    assert written.name.startswith("speed-tiny-model-2") and str(written) in err
    assert json.loads(written.read_text())["benchmark"] == "speed"


def test_json_alone_on_standard_output(bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--json", "-q") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["settings"]["rounds"] == 1
    assert "round" not in err


def test_a_baseline_is_kept_and_compared(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--compare") == 2  # nothing is there yet, which is known before anything is measured
    assert "--save-baseline" in capsys.readouterr().err
    assert bench("--save-baseline", "-q") == 0
    assert (tmp_path / "data/gemlet/baselines/speed-quick-tiny-model.json").is_file()
    capsys.readouterr()
    assert bench("--compare", "-q") == 0
    out = capsys.readouterr().out
    assert "since the baseline:" in out and "too few rounds to tell" in out


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--against", "ollama"], 2, "llama.cpp is known"),
        (["--rounds", "0"], 2, "--rounds must be from 1 to 256"),
        (["--plot", "picture.gif"], 2, ".png, .svg, .pdf"),
        (["--compare", "nowhere.json"], 2, "nowhere.json"),
    ],
)
def test_wrong_wishes_are_known_at_once(
    bench, flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*flags) == code
    assert said in capsys.readouterr().err


def test_a_missing_peer_says_how_to_install_it(
    bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bench("--against", "llama.cpp") == 6
    assert "pip install" in capsys.readouterr().err


def test_verbs_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2
    assert main(["bench", "walk"]) == 2
    assert main(["help", "bench"]) == 0
    assert "speed" in capsys.readouterr().out
    assert main(["help", "bench", "speed"]) == 0
    assert "--save-baseline" in capsys.readouterr().out
