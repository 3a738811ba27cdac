"""`gemlet quantize` on a tiny model: the file, the figures, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from gemlet.errors import MissingExtraError
from gemlet.model.sources import open_source
from gemlet.provenance.manifest import changed_files, read_manifest
from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(layers=2), np.random.default_rng(7), "F32")
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for little work, and three documents of their own."""
    path = tmp_path_factory.mktemp("text") / "held-out.jsonl"
    texts = ("The bridge is closed.", "Soup for four, with bread", "return left + right")
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return ["--text", str(path), "--calibration-tokens", "400"]


def test_a_file_its_errors_and_its_loss(
    tiny: Path, few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.gguf"
    assert main(["quantize", str(tiny), "--type", "q4_0", "-o", str(out), "--json", *few]) == 0
    shown = json.loads(capsys.readouterr().out)
    kinds = {name: tensor.kind for name, tensor in open_source(out).tensors.items()}
    assert kinds["token_embd"] == "Q8_0"
    assert kinds["blk.1.ffn_down"] == "Q4_0"
    assert json.loads((tmp_path / "small.gguf.quantize.json").read_text()) == shown
    assert len(shown["tensors"]) == 15
    assert 0 < shown["quality"]["kl"]["low"] < shown["quality"]["kl"]["high"]
    assert shown["quality"]["choices"]["questions"] == 40
    assert shown["calibration"]["name"] == "samples.txt"
    assert shown["files"]["small.gguf"]["bytes"] == out.stat().st_size
    names = {path.name for path in tmp_path.iterdir()}
    assert {"LICENSE", "Notice", "MODIFICATIONS", "small.gguf.manifest.json"} <= names
    made = read_manifest(out)
    assert made is not None and made.quantisation == "q4_0" and changed_files(out, made) == ()
    assert not any(name.endswith(".part") for name in names)


def test_the_table_names_parts_and_intervals(
    tiny: Path, few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "eight.gguf")
    assert main(["quantize", str(tiny), "--type", "q8_0", "-o", out, *few]) == 0
    text = capsys.readouterr().out
    for word in ("ffn_down     Q8_0", "KL ", "perplexity ", "choices "):
        assert word in text


def test_weights_on_the_grid_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "qat.gguf"
    write_tiny_gguf(source, tiny_config(layers=2), np.random.default_rng(7), "Q4_0")
    text = tmp_path / "mine.txt"
    text.write_text("What I write about. " * 30)
    arguments = ["quantize", str(source), "--type", "q4_0", "-o", str(tmp_path / "o.gguf"), "--no-measure"]
    assert main([*arguments, "--calibrate", str(text)]) == 0
    err = capsys.readouterr().err
    assert "lie on the Q4_0 grid" in err
    assert "--calibrate changes nothing" in err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--type", "q3_k"], 2, "q8_0, q4_0"),
        (["--method", "magic"], 2, "search, plain"),
        (["-o", "missing/out.gguf"], None, "no such folder"),
        (["--text", "missing.txt"], 3, "missing.txt"),
        (["--tokens", "3"], 2, "at least 64"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    code: int | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = main(["quantize", str(tiny), "--type", "q4_0", "-o", "out.gguf", *change])
    assert found == code if code is not None else found != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept_and_ctrl_c_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    assert main(["quantize", str(tiny), "--type", "q8_0", "-o", str(out)]) != 0
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemlet.convert.quantize_weights.search", interrupt)
    assert main(["quantize", str(tiny), "--type", "q4_0", "-o", str(tmp_path / "new.gguf")]) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"out.gguf"}


def test_ctrl_c_while_measuring_keeps_the_file_and_says_so(
    tiny: Path,
    few: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemlet.evaluate.quality_report.measure", interrupt)
    out = tmp_path / "eight.gguf"
    assert main(["quantize", str(tiny), "--type", "q8_0", "-o", str(out), *few]) == 130
    assert "its loss was not measured" in capsys.readouterr().err
    document = json.loads((tmp_path / "eight.gguf.quantize.json").read_text())
    assert document["measurement_interrupted"] is True and document["quality"] is None
    made = read_manifest(out)
    assert made is not None and changed_files(out, made) == () and open_source(out).tensors


def test_the_extra_is_asked_for_before_any_work(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("gemlet.convert.quantize_weights.quantize", lambda *_: pytest.fail("it worked"))
    out = str(tmp_path / "small.gguf")
    assert main(["quantize", str(tiny), "--type", "q4_0", "-o", out]) == MissingExtraError.exit_code
    assert "gemlet[convert]" in capsys.readouterr().err
    monkeypatch.setattr("gemlet.convert.export.content_sha256", lambda *_: pytest.fail("it worked"))
    assert main(["export", str(tiny), "--format", "gguf", "-o", out]) == MissingExtraError.exit_code
