"""`gemlet run`: where the prompt comes from, what reaches the library, what is printed, how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemlet.cli.main import main
from gemlet.errors import ModelFileError, ModelNotFoundError
from tests.cli.fake_model import FakeModel


class Stdin(io.TextIOWrapper):
    """Standard input with the given bytes, or a terminal that nobody types into."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self._terminal = terminal
        raw = io.BytesIO(data)
        raw.isatty = lambda: terminal  # type: ignore[method-assign]
        super().__init__(raw, encoding="utf-8")


@pytest.fixture(autouse=True)
def terminal_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


def run(model: FakeModel, *words: str) -> int:
    return main(["run", *words], load=model.load)


def prompt_of(model: FakeModel) -> Any:
    return model.calls[-1][0]


def test_plain_answer_on_stdout_notices_on_stderr(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model.normalisations = ("a base model: a short frame of examples was used",)
    assert run(model, "Why is the sky blue?") == 0
    out, err = capsys.readouterr()
    assert out == "The sky **is** blue.\n"
    assert err == "gemlet: using the fake model\ngemlet: a base model: a short frame of examples was used\n"
    assert prompt_of(model) == [{"role": "user", "content": "Why is the sky blue?"}]
    assert model.closed == 1


def test_quiet_leaves_the_answer_only(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.normalisations = ("something",)
    assert run(model, "-q", "x") == 0
    assert capsys.readouterr() == ("The sky **is** blue.\n", "")


def test_system_and_raw(model: FakeModel) -> None:
    assert run(model, "-s", "be brief", "-p", "hello") == 0
    assert prompt_of(model) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]
    assert run(model, "--raw", "The capital ") == 0
    assert prompt_of(model) == "The capital "


def test_every_flag_reaches_the_library(model: FakeModel) -> None:
    words = (
        "-n 5 -t 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --seed 4 --repetition-penalty 1.1 "
        "--presence-penalty 0.2 --frequency-penalty 0.3 --logit-bias 5=-1.5 --logit-bias 6=2 --stop a "
        "--stop b --ignore-eos --n 2 --logprobs 2 --json -m REF -c 99 --threads 1 --weights int4 hello"
    )
    assert run(model, *words.split()) == 0
    assert prompt_of(model) == [{"role": "user", "content": "hello"}]
    assert model.calls[0][1] == {
        "max_tokens": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 4,
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "logit_bias": {5: -1.5, 6: 2.0}, "stop": ("a", "b"), "ignore_eos": True, "n": 2, "logprobs": 2,
        "stream": True,
    }  # fmt: skip
    loaded = model.loaded[0]
    assert (loaded["reference"], loaded["context"], loaded["threads"], loaded["weights"]) == (
        "REF",
        99,
        1,
        "int4",
    )


def test_without_flags_the_library_decides(model: FakeModel) -> None:
    assert run(model, "hello") == 0
    assert model.calls[0][1] == {
        "max_tokens": None,
        "n": 1,
        "logprobs": 0,
        "ignore_eos": False,
        "stream": True,
    }


def test_files_stdin_and_argument_in_order(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}é one\r\n".encode())
    two.write_bytes(b"two\n\n")
    monkeypatch.setattr(sys, "stdin", Stdin(b"piped\n"))
    assert run(model, "-p", "Ask", "-f", str(one)) == 0
    assert prompt_of(model)[0]["content"] == "é one\n\npiped\n\nAsk"
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    assert run(model, "Ask", "-f", str(one), str(two)) == 0
    assert prompt_of(model)[0]["content"] == f"--- {one} ---\né one\n\n--- {two} ---\ntwo\n\n\nAsk"


@pytest.mark.parametrize("words", [(), ("-",), ("-p", "-")])
def test_stdin_alone(model: FakeModel, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"a  b \n\n"))
    assert run(model, "--raw", *words) == 0
    assert prompt_of(model) == "a  b \n"


@pytest.mark.parametrize(
    ("stdin", "words", "code", "says"),
    [
        (Stdin(terminal=True), (), 2, "there is no prompt"),
        (Stdin(b""), (), 2, "the prompt is empty"),
        (Stdin(b" \n\t\n"), ("-",), 2, "the prompt is empty"),
        (Stdin(terminal=True), ("  ",), 2, "the prompt is empty"),
        (Stdin(terminal=True), ("--raw", ""), 2, "the prompt is empty"),
        (Stdin(b"abc\xff"), ("-",), 2, "standard input is not UTF-8 text: byte 0xff at offset 3"),
        (Stdin(terminal=True), ("a\udcff",), 2, "not UTF-8"),
        (Stdin(terminal=True), ("-f", "/no/such/file"), 1, "/no/such/file: No such file"),
        (Stdin(terminal=True), ("x", "--schema", "/no/such/s.json"), 1, "/no/such/s.json: No such file"),
        (Stdin(terminal=True), ("x", "--schema", "{'a': 1}"), 2, "--schema: the schema is not JSON"),
        (Stdin(terminal=True), ("x", "--schema", '{"not": {}}'), 2, "the keyword 'not' cannot be enforced"),
        (Stdin(terminal=True), ("x", "--schema", "{}", "--regex", "a"), 2, "not allowed with"),
        (Stdin(terminal=True), ("x", "--regex", ""), 2, "regex must be text that is not empty"),
        (Stdin(terminal=True), ("x", "--grammar", "/no/such/g.lark"), 1, "/no/such/g.lark: No such file"),
        (Stdin(terminal=True), ("x", "--stream"), 2, "--stream needs --json"),
        (Stdin(terminal=True), ("x", "--logprobs", "3"), 2, "--logprobs needs --json"),
        (Stdin(terminal=True), ("x", "--raw", "-s", "y"), 2, "--system has no place"),
        (Stdin(terminal=True), ("x", "--n", "0"), 2, "--n must be at least 1"),
        (Stdin(terminal=True), ("x", "--top-k", "many"), 2, "--top-k"),
        (Stdin(terminal=True), ("x", "--logit-bias", "a=b"), 2, "--logit-bias takes ID=VALUE"),
        (Stdin(terminal=True), ("x", "--tem", "1"), 2, "--tem"),
    ],
)
def test_refusals(
    model: FakeModel, stdin: Stdin, words: tuple[str, ...], code: int, says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(model, *words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gemlet: ") and says in err
    assert model.calls == []


def test_the_shape_of_the_answer_reaches_the_library(model: FakeModel, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"enum": [1, 2]}')
    grammar.write_text('start: "a"\n')
    wanted = {"type": "json_schema", "json_schema": {"name": "schema", "schema": {"enum": [1, 2]}}}
    for flag, value, option, given in (
        ("--schema", str(schema), "response_format", wanted),
        ("--schema", ' {"enum": [1, 2]}', "response_format", wanted),
        ("--regex", "[ab]", "regex", "[ab]"),
        ("--grammar", str(grammar), "grammar", 'start: "a"'),
    ):
        assert run(model, "x", flag, value) == 0
        assert model.calls[-1][1][option] == given
        assert not {"response_format", "regex", "grammar"} - {option} & model.calls[-1][1].keys()


def test_json_is_one_document(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--json", "--seed", "3", "x") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text"] == "The sky **is** blue."
    assert document["usage"] == {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 4}
    assert (document["seed"], document["finish_reason"], document["stop_reason"]) == (3, "stop", 106)


def test_json_of_several_choices_is_a_list(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--json", "--n", "3", "x") == 0
    assert [one["text"] for one in json.loads(capsys.readouterr().out)] == [model.answer] * 3


def test_json_lines(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--json", "--stream", "x") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(line["text"] for line in lines) == model.answer
    assert [line["completion"] is not None for line in lines] == [False, False, False, False, True]


def test_choices_are_printed_whole(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--n", "2", "x") == 0
    assert capsys.readouterr().out == f"--- 1 ---\n{model.answer}\n--- 2 ---\n{model.answer}\n"


def test_stats_line(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--stats", "-q", "one two") == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("load 0.0")
    assert "prefill 2 tokens, 120.0 tokens/s · decode 4 tokens, 50.0 tokens/s" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("x",), "The sky\n"),
        (("--json", "x"), '{"text": "The sky", "token_ids": [1000, 1001], "finish_reason": "cancelled"}\n'),
    ],
)
def test_ctrl_c_prints_what_there_is(
    model: FakeModel, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model.interrupt_at = 2
    assert run(model, *words) == 130
    assert capsys.readouterr().out == expected
    assert (model.closed, model.cancelled) == (1, 1)


@pytest.mark.parametrize(
    "error", [ModelFileError("m.gguf", "magic", "wrong"), ModelNotFoundError("no model x")]
)
def test_errors_have_their_exit_code(error: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def load(*args: object, **options: object) -> None:
        raise error

    assert main(["run", "x"], load=load) == error.exit_code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"gemlet: {error.message}\n")
    assert main(["run", "--json", "x"], load=load) == error.exit_code
    document = json.loads(capsys.readouterr().out)["error"]
    assert (document["type"], document["message"]) == (type(error).__name__, error.message)


@pytest.mark.parametrize("verb", [("run", "x"), ("chat",)])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("-t", "-1"), "temperature"),
        (("--top-p", "1.5"), "top_p"),
        (("-n", "0"), "max_tokens"),
        (("--logit-bias", "5=1000"), "logit_bias"),
        (("--logit-bias", "five=1"), "--logit-bias"),
    ],
)
def test_a_wrong_value_is_refused_before_a_model_is_loaded(
    model: FakeModel,
    verb: tuple[str, ...],
    flags: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*verb, *flags], load=model.load) == 2
    assert says in capsys.readouterr().err
    assert model.loaded == []


def test_a_defect_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: object, **options: object) -> None:
        raise TypeError("oh")

    assert main(["run", "x"], load=load) == 1
    err = capsys.readouterr().err
    assert "internal error: TypeError: oh" in err and "Traceback" not in err
    monkeypatch.setenv("GEMLET_DEBUG", "1")
    main(["run", "x"], load=load)
    assert "Traceback" in capsys.readouterr().err


def test_the_terms_are_said_once_and_always_for_the_embedded_model(
    model: FakeModel, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> int:
        assert run(model, "x") == 0
        return capsys.readouterr().err.count("Gemma Terms of Use: ai.google.dev/gemma/terms")

    assert said() == 0
    (own_cache / "terms-gemma").unlink()
    assert (said(), said()) == (1, 0)
    model.reference = "embedded"
    assert (said(), said()) == (1, 1)


def test_json_is_whole_where_the_output_has_no_utf_8(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.answer = "né 日本"
    for flags in ([], ["--stream"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        monkeypatch.setattr(sys, "stdout", out)
        assert run(model, "x", "--json", *flags) == 0
        lines = out.buffer.getvalue().splitlines()  # type: ignore[attr-defined]
        last = json.loads(lines[-1])
        assert (last["completion"] if flags else last)["text"] == model.answer


def test_ctrl_c_during_imports_ends_the_process(tmp_path: Path) -> None:
    """Also where a library makes another error of the interrupt, as NumPy does."""
    (tmp_path / "numpy.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('swallowed') from None\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "gemlet", "run", "hi"]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    ("words", "draft"), [((), None), (("--draft", "small.gguf"), "small.gguf"), (("--no-draft",), False)]
)
def test_drafts_are_the_librarys_choice_unless_asked(
    model: FakeModel, words: tuple[str, ...], draft: str | bool | None
) -> None:
    assert run(model, "Hi", *words) == 0
    assert model.loaded[-1]["draft"] == draft


def test_a_draft_model_and_none_exclude_each_other(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "Hi", "--no-draft", "--draft", "small.gguf") == 2
    assert "not allowed with" in capsys.readouterr().err
