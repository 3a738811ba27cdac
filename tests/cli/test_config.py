"""`gemlet config`: what is shown, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemlet.cli.main import main


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MODEL", "WEIGHTS", "CONTEXT", "THREADS", "HISTORY", "OFFLINE", "CACHE_LIMIT"):
        monkeypatch.delenv(f"GEMLET_{name}", raising=False)
    return tmp_path / "gemlet" / "config.toml"


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main(["config", "--json"]) == 0
    return {setting["key"]: setting for setting in json.loads(capsys.readouterr().out)["settings"]}


def test_set_then_unset_keeps_the_rest_of_the_file(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.parent.mkdir()
    folders.write_text("# mine\nthreads = 3  # three\ncontext = 4096", encoding="utf-8")
    assert main(["config", "set", "threads", "2"]) == 0
    assert main(["config", "set", "model", r'C:\models\"x".gguf']) == 0
    settings = shown(capsys)
    assert (settings["threads"]["value"], settings["context"]["value"]) == (2, 4096)
    assert settings["model"]["value"] == r'C:\models\"x".gguf'
    assert settings["model"]["where"] == f"{folders}:4"
    assert main(["config", "unset", "threads"]) == 0
    assert shown(capsys)["threads"]["origin"] == "default"
    assert folders.read_text(encoding="utf-8").startswith("# mine\ncontext = 4096\n")


def test_values_of_each_kind_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    for key, text, value in (
        ("history", "no", False),
        ("cache_limit", "5GB", 5 * 10**9),
        ("prefix_cache", "0", 0),
        ("weights", "int8", "int8"),
    ):
        assert main(["config", "set", key, text]) == 0
        assert shown(capsys)[key]["value"] == value


def test_the_environment_wins_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folders: Path
) -> None:
    main(["config", "set", "threads", "2"])
    monkeypatch.setenv("GEMLET_THREADS", "7")
    assert shown(capsys)["threads"] == {
        "key": "threads", "value": 7, "origin": "environment", "where": "GEMLET_THREADS",
    }  # fmt: skip
    main(["config", "set", "threads", "4"])  # still finds its own line
    assert folders.read_text(encoding="utf-8") == "threads = 4\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "thread", "2"], "did you mean threads"),
        (["set", "threads", "many"], "whole number"),
        (["set", "threads"], "needs a value"),
        (["unset"], "needs a key"),
        (["path", "model"], "takes no key"),
        (["set", "model", "a\nb"], "cannot be printed"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], folders: Path
) -> None:
    assert main(["config", *words]) == 7
    assert says in capsys.readouterr().err
    assert not folders.exists()


def test_path_and_table(capsys: pytest.CaptureFixture[str], folders: Path) -> None:
    assert main(["config", "path"]) == 0
    assert capsys.readouterr().out == f"{folders}\n"
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "model", "weights", "context", "threads", "prefix_cache", "cache_limit", "offline",
        "head_sketch",
        "drafts", "history",
    ]  # fmt: skip
    assert all(line.endswith("default") for line in lines)
