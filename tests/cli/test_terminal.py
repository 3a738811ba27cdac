"""In a real terminal: streaming, Ctrl-C, Ctrl-D, editing, Markdown, control characters."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import ROOT, PseudoTerminal

LONG = " ".join(f"w{number}" for number in range(200))


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "gemlet"


def test_run_streams_and_ctrl_c_ends_it_with_130() -> None:
    with PseudoTerminal("run", "hello", answer=LONG, delay_s=0.05) as terminal:
        terminal.wait_for("w3 ")  # long before the 10 s of the whole answer
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "w199" not in terminal.screen
    assert "Traceback" not in terminal.screen
    assert terminal.screen.endswith("\n")


def test_run_cannot_be_told_to_recolour_the_screen() -> None:
    with PseudoTerminal("run", "-q", "hello", answer="a\x1b[31mb\x1b]0;title\x07c\td\ne") as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.screen
    assert terminal.screen == "a\ufffd[31mb\ufffd]0;title\ufffdc\td\r\ne\r\n"


def test_chat_renders_markdown() -> None:
    with PseudoTerminal("chat", answer="Some **bold** and\n- `code`") as terminal:
        terminal.wait_for(">>>")
        terminal.type("hi\r")
        terminal.wait_for("\x1b[36mcode\x1b[0m")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert "\x1b[1mbold\x1b[0m" in terminal.screen
    assert "• " in terminal.screen


def test_chat_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    with PseudoTerminal("chat", answer=LONG, delay_s=0.05) as terminal:
        for _ in range(2):
            terminal.wait_for(">>>")
            terminal.type("hello\r")
            terminal.wait_for("w3 ")
            terminal.type("\x03")
            terminal.wait_for("stopped")
        terminal.wait_for(">>>")
        terminal.type("half a line\x03")  # empties the line
        terminal.type("\x03")
        terminal.wait_for("Ctrl-C again")
        terminal.wait_for(">>>")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert "w199" not in terminal.screen


def test_chat_several_lines_and_history_of_input(data_home: Path) -> None:
    with PseudoTerminal("chat") as terminal:
        terminal.wait_for(">>>")
        terminal.type('"""one\rtwo"""\r')
        terminal.wait_for("Fine.")
        terminal.wait_for(">>>")
        terminal.type("three\x1b\rfour\r")  # Alt-Enter between them
        terminal.wait_for("Fine.")
        terminal.wait_for(">>>")
        terminal.type("/bye\r")
        assert terminal.end() == 0
    with PseudoTerminal("chat", "--continue") as terminal:
        terminal.wait_for("user: three")
        terminal.wait_for(">>>")
        terminal.type("\x1b[A\x1b[A\x1b[A")  # up, to what was typed in the program before
        terminal.wait_for("four")
        terminal.type("\x03")
        terminal.type("/save /dev/stdout\r")
        terminal.wait_for('"one\\ntwo"')
        terminal.wait_for('"three\\nfour"')
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert {file.stat().st_mode & 0o777 for file in data_home.iterdir()} == {0o600}


def test_chat_without_prompt_toolkit_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(p for p in sys.path if p)}")
    with PseudoTerminal("chat", answer="Fine **here**.") as terminal:
        terminal.wait_for("pip install 'gemlet[chat]'")
        terminal.wait_for(">>>")
        terminal.type('"""one\r')
        terminal.wait_for("... ")
        terminal.type('two"""\r')
        terminal.wait_for("\x1b[1mhere")
        terminal.wait_for(">>>")
        terminal.interrupt()
        terminal.wait_for("Ctrl-C again")
        terminal.wait_for(">>>")
        terminal.interrupt()
        assert terminal.end() == 0


def test_a_reader_that_stops_early_is_no_error() -> None:
    program = f"{sys.executable} -m tests.cli.fake_model 0.01 '{LONG}' run -q x"
    command = program + " | head -c 5; echo ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout == "w0 w1141\n"
    assert done.stderr == ""


def test_a_prompt_beside_a_silent_pipe_says_that_it_waits() -> None:
    command = [sys.executable, "-m", "tests.cli.fake_model", "0", "Fine.", "run", "-q", "x"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None and process.stdin is not None
        assert "waiting for standard input" in process.stderr.readline()
        process.stdin.close()
        assert process.stdout.read() == "Fine.\n"


def test_nothing_is_redrawn_when_the_answer_is_longer_than_the_screen() -> None:
    with PseudoTerminal("chat", "-q", answer=LONG.replace(" w1", "\nw1"), columns=40) as terminal:
        terminal.wait_for(">>>")
        terminal.type("x\r")
        terminal.wait_for("w199")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert re.findall(r"w\d+", terminal.screen) == LONG.split()
