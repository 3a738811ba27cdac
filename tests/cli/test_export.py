"""`gemlet export` on tiny models: what is printed, what is written, and what a mistake costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from gemlet.convert import export as export_module
from gemlet.errors import OutputError
from gemlet.model.sources import open_source
from tests.adapters import random_adapter
from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model; no other program is there to compute it."""
    monkeypatch.setattr(export_module, "has_llama_cpp", lambda: False)
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(layers=2), np.random.default_rng(0), "BF16")
    return path


def test_the_result_is_printed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(model), "--format", "gguf", "--type", "q8_0", "-o", str(tmp_path / "out.gguf")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "written    " in printed.out and "Q8_0" in printed.out
    assert "changed    15 tensors, " in printed.out
    assert "check      every value" in printed.out
    assert "reading it again" in printed.err
    assert open_source(tmp_path / "out.gguf").tensors["token_embd"].kind == "Q8_0"


def test_the_result_as_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = random_adapter(tmp_path / "tuned", open_source(model).config, seed=1)
    out = tmp_path / "out.gguf"
    assert (
        main(["export", f"{model}+{adapter}", "--format", "gguf", "-o", str(out), "--json", "--quiet"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["format"], result["path"], result["nbytes"]) == ("gguf", str(out), out.stat().st_size)
    assert len(result["errors"]) == 14 and 0 < result["loss"] < 2.0**-8  # bf16 rounds
    assert result["checked"] and result["logits"] is None
    assert str(tmp_path / "Notice") in result["files"]


def test_without_a_check(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder"
    assert main(["export", str(model), "--format", "transformers", "--no-check", "-o", str(out)]) == 0
    assert "check      skipped" in capsys.readouterr().out
    assert {tensor.kind for tensor in open_source(out).tensors.values()} == {"BF16"}


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--format", "gguf", "--type", "iq2"], 2, "invalid choice"),
        (["--format", "onnx"], 2, "invalid choice"),
        (["--format", "transformers", "--type", "q4_0"], 2, "does not hold q4_0"),
        (["--format", "gguf", "--adapter", "apart"], 2, "--adapter without an adapter"),
        (["--type", "q4_0"], 2, "--format"),
    ],
)
def test_what_cannot_be_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    assert main(["export", str(model), *flags, "-o", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_file_that_is_there_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    arguments = ["export", str(model), "--format", "gguf", "-o", str(out)]
    assert main(arguments) == OutputError.exit_code
    assert "--force replaces it" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([*arguments, "--force"]) == 0
    assert open_source(out).config == open_source(model).config


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(tmp_path / "none.gguf"), "--format", "gguf", "-o", str(tmp_path / "o.gguf")]
    assert main([*arguments, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ModelNotFoundError"
