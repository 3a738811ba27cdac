"""The verbs on the real engine, with a tiny model of random weights: where command and library meet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gemlet.cli.main import main
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.test_run import Stdin
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(), np.random.default_rng(7), "Q8_0", chat_template=CHAT_TEMPLATE)
    return str(path)


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert main(["run", *words]) == 0
    out, err = capsys.readouterr()
    return out, err


def test_the_same_seed_gives_the_same_text_streamed_or_not(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", tiny, "-n", "20", "--seed", "5", "--ignore-eos", "some words")
    out, err = run(capsys, *words)
    document = json.loads(run(capsys, *words, "--json")[0])
    lines = [json.loads(line) for line in run(capsys, *words, "--json", "--stream")[0].splitlines()]
    assert "Traceback" not in err
    assert document["usage"]["completion_tokens"] == 20
    assert out == document["text"] + "\n" * (not document["text"].endswith("\n"))
    assert "".join(line["text"] for line in lines) == document["text"]
    assert lines[-1]["completion"]["token_ids"] == document["token_ids"]


def test_a_schema_and_a_regex_are_kept(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    schema = '{"properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false}'
    words = ("-m", tiny, "--seed", "5", "x")
    out = run(capsys, *words, "--schema", schema.replace("{", '{"type": "object", ', 1))[0]
    assert json.loads(out) in ({"n": 1}, {"n": 2})
    assert run(capsys, *words, "--regex", "[xy]{3}")[0].strip("xy") == "\n"


def test_choices_and_logprobs(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--raw", "-m", tiny, "-n", "3", "--n", "2", "--logprobs", "2", "--ignore-eos", "--json", "words")
    first, second = json.loads(run(capsys, *words)[0])
    assert len(first["logprobs"]) == len(second["logprobs"]) == 3
    assert all(len(token["top"]) == 2 for token in first["logprobs"])


def test_a_raw_prompt_is_taken_as_it_is(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts = [
        json.loads(run(capsys, *flags, "-m", tiny, "-n", "1", "--json", "some words")[0])["usage"][
            "prompt_tokens"
        ]
        for flags in (("--raw",), ())
    ]
    assert counts[0] < counts[1]  # the chat format adds its own tokens


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-n", "2000"), 2, "the context holds 1024"),
        (("-c", "64", "-n", "100"), 2, "the context holds 64"),
        (("-c", "99999"), 2, "1024"),
        (("--top-p", "7"), 2, "top_p"),
        (("-t", "nan"), 2, "temperature"),
        (("--weights", "int3"), 2, "int3"),
        (("--threads", "0"), 2, "threads"),
        (("--logit-bias", "999999=1"), 2, "999999"),
    ],
)
def test_wrong_values_are_refused(
    tiny: str, words: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", tiny, *words, "hello"]) == code
    out, err = capsys.readouterr()
    assert (out, says in err, "internal error" in err) == ("", True, False), err


def test_chat_reuses_what_was_computed(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"first words of a talk that is long enough to be kept\nmore\n"))
    assert main(["chat", "-m", tiny, "-n", "8", "--seed", "1", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["usage"]["cached_tokens"] == 0
    assert second["usage"]["cached_tokens"] > first["usage"]["prompt_tokens"] - 8


def test_ctrl_c_reaches_the_engine(tiny: str) -> None:
    with PseudoTerminal("run", "-q", "-m", tiny, "--ignore-eos", "-t", "2", "x", fake=False) as terminal:
        terminal.wait_for_any()
        terminal.type("\x03")
        assert terminal.end() in (0, 130)  # 0: the answer to the context's end came first
    assert "Traceback" not in terminal.screen


def test_a_program_without_arguments_of_its_own_loads_no_terminal_library(tiny: str) -> None:
    listing = (
        f"import sys; from gemlet.cli.main import main; main(['run', '-q', '-m', {tiny!r}, '-n', '1', 'x']);"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert not {"rich", "prompt_toolkit", "sqlite3", "ssl", "urllib.request"} & set(done.stdout.split())
