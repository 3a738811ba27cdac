"""`gemlet show`: numbers against the files they describe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    kinds = {"*": "Q4_0", "token_embd": "Q8_0"}
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(7), kinds, chat_template=CHAT_TEMPLATE)
    return path


def test_json_has_every_fact(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config()
    assert main(["show", str(tiny), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["path"] == str(tiny)
    assert (shown["family"], shown["chat"]) == ("gemma3", True)
    assert shown["config"]["hidden_size"] == config.hidden_size
    assert shown["stop_ids"] == [1, 106]  # a chat model ends its turn with the second, which the file forgot
    assert shown["chat_template"]["characters"] == len(CHAT_TEMPLATE)
    rows = config.vocab_size * config.hidden_size
    assert shown["stored"]["Q8_0"] == {"tensors": 1, "bytes": rows // 32 * 34}
    assert sum(kind["bytes"] for kind in shown["stored"].values()) == shown["bytes"] < tiny.stat().st_size
    assert shown["parameters"]["embedding"] == rows
    assert shown["kv_bytes"][str(config.context_length)] == config.kv_bytes(config.context_length)


def test_text_says_the_same(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config()
    assert main(["show", "-m", str(tiny)]) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert "chat model" in lines["model"]
    assert lines["template"].startswith(f"{len(CHAT_TEMPLATE)} characters, sha256 ")
    assert lines["file"] == str(tiny)
    assert "6 local (window" in lines["layers"] and "1 global" in lines["layers"]
    assert f"{config.context_length} tokens" in lines["context"]
    assert "Q8_0" in lines["size"] and "Q4_0" in lines["size"]


def test_a_base_model_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "base.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(7))
    assert main(["show", str(path)]) == 0
    assert "base model (its files carry no chat format)" in capsys.readouterr().out


def test_a_bad_file_is_an_error_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF nothing more")
    assert main(["show", str(path)]) == 3
    assert "bad.gguf" in capsys.readouterr().err
    assert main(["show", str(path), "-m", "other"]) == 2
    assert "named twice" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "none.gguf"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ModelNotFoundError"
