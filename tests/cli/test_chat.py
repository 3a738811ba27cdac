"""`gemlet chat` with piped input: what the model is given, what is kept, commands, errors."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gemlet.cli.commands import COMMANDS
from gemlet.cli.main import main
from gemlet.cli.reading import is_open_block, without_marks
from gemlet.errors import ContextLengthError, InvalidRequestError
from tests.cli.fake_model import FakeModel
from tests.cli.test_run import Stdin


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "gemlet"


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(answer="Fine.")


class Chat:
    """Runs a whole chat on given lines and keeps what it printed."""

    def __init__(self, model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self._model, self._monkeypatch, self._capsys = model, monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *lines: str, flags: str = "") -> int:
        self._monkeypatch.setattr(sys, "stdin", Stdin("".join(f"{line}\n" for line in lines).encode()))
        code = main(["chat", *flags.split()], load=self._model.load)
        self.out, self.err = self._capsys.readouterr()
        return code

    def asked(self, call: int = -1) -> list[str]:
        """Contents of the messages of one call."""
        return [message.content for message in self._model.calls[call][0]]


@pytest.fixture
def chat(model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    return Chat(model, monkeypatch, capsys)


def test_every_turn_is_asked_with_the_whole_conversation(chat: Chat) -> None:
    assert chat("one", "", "two", flags="-s kind -t 0.3") == 0
    assert chat.out == "Fine.\nFine.\n"
    assert chat.asked() == ["kind", "one", "Fine.", "two"]
    assert chat._model.calls[0][1] == {"max_tokens": None, "temperature": 0.3, "stream": True}


def test_a_block_is_one_message(chat: Chat) -> None:
    assert chat('"""first', "", '  second"""', "next") == 0
    assert chat.asked(0) == ["first\n\n  second"]
    assert chat.asked(1)[-1] == "next"


def test_a_block_that_the_end_leaves_open_is_a_message(chat: Chat) -> None:
    assert chat('"""first', "second") == 0
    assert chat.asked(0) == ["first\nsecond"]


def test_a_space_before_a_slash_makes_a_message(chat: Chat) -> None:
    assert chat(" /usr/bin holds programs") == 0
    assert chat.asked(0) == [" /usr/bin holds programs"]


def test_piped_input_is_utf_8_in_every_locale(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = io.BytesIO("bad \xff\n".encode("latin-1") + "né\r\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, encoding="ascii", errors="surrogateescape"))
    assert main(["chat"], load=model.load) == InvalidRequestError.exit_code
    assert "not UTF-8 text: invalid start byte at byte 4" in capsys.readouterr().err
    assert [message.content for message in model.calls[-1][0]] == ["né"]


def test_a_folder_that_cannot_be_written_says_how_to_chat_without(chat: Chat, data_home: Path) -> None:
    data_home.write_text("a file where the folder should be")
    assert chat("one") == 7
    assert str(data_home) in chat.err and "--no-history" in chat.err


def test_continue_goes_on_with_the_last_or_a_numbered_one(chat: Chat, model: FakeModel) -> None:
    chat("one", flags="-m some-model -s kind")
    chat("other")
    assert chat("two", flags="--continue 1") == 0
    assert chat.asked() == ["kind", "one", "Fine.", "two"]
    assert model.loaded[-1]["reference"] == "fake"  # the model it was held with
    assert chat("three", flags="--continue") == 0
    assert chat.asked() == ["kind", "one", "Fine.", "two", "Fine.", "three"]


def test_list_and_delete(chat: Chat) -> None:
    chat("a question", "another")
    assert chat(flags="--list") == 0
    number, *_, title = chat.out.split(maxsplit=5)
    assert (number, title) == ("1", "a question\n")
    assert chat(flags="--list --json") == 0
    assert [(one["id"], one["messages"]) for one in json.loads(chat.out)] == [(1, 4)]
    assert chat(flags="--delete 1 --list") == 0
    assert chat.out == ""
    assert chat(flags="--delete 1") == 2
    assert "no conversation 1" in chat.err


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_without_history_nothing_is_written(
    chat: Chat, data_home: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv("GEMLET_HISTORY", "false")
    flags = "--no-history" if how == "flag" else ""
    assert chat("one", "two", flags=flags) == 0
    assert not data_home.exists()
    assert chat("one", flags=f"{flags} --continue") == 2
    assert "history is off" in chat.err


def test_set_reaches_the_library_and_back(chat: Chat, model: FakeModel) -> None:
    lines = ("/set temperature 0.2", "/set stop a 'b c'", "/set system short", "x", "/set temperature", "x")
    assert chat(*lines, flags="-t 1.5") == 0
    assert model.calls[0][1] == {
        "max_tokens": None, "temperature": 0.2, "stop": ("a", "b c"), "stream": True,
    }  # fmt: skip
    assert chat.asked(0) == ["short", "x"]
    assert "temperature" not in model.calls[1][1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/set temprature 1", "did you mean temperature"),
        ("/set top_k 1.5", "top_k must be a whole number"),
        ("/hlep", "did you mean /help"),
        ("/save", "which one?"),
        ("/load /no/such/file", "/no/such/file: No such file"),
        ("/load 77", "no conversation 77"),
        ("/drop x", "/drop takes a number"),
        ("/regen", "nothing to answer again"),
        ("/usr/bin holds programs", "a space before the / makes it a message"),
    ],
)
def test_a_wrong_command_is_said_and_the_chat_goes_on(chat: Chat, line: str, says: str) -> None:
    assert chat(line, "hello") == 0
    assert says in chat.err
    assert chat.out == "Fine.\n"


def test_help_names_every_command(chat: Chat) -> None:
    chat("/help")
    assert all(name in chat.err for name in COMMANDS)


@pytest.mark.parametrize("word", ["/bye", "/exit"])
def test_leaving_words(chat: Chat, word: str, model: FakeModel) -> None:
    assert chat(word, "not asked") == 0
    assert (model.calls, model.closed) == ([], 1)


def test_regen_replaces_the_answer(chat: Chat, model: FakeModel) -> None:
    chat("one", "/regen", "two")
    assert chat.asked(1) == ["one"]
    assert chat.asked(2) == ["one", "Fine.", "two"]


def test_clear_begins_another_conversation(chat: Chat) -> None:
    chat("one", "/clear", "two")
    assert chat.asked() == ["two"]
    chat(flags="--list --json")
    assert [one["title"] for one in json.loads(chat.out)] == ["two", "one"]


def test_save_and_load(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat("one", "/drop", f"/save {file}", flags="-s kind")
    chat(f"/load {file}", "two")
    assert chat.asked() == ["kind", "one", "Fine.", "two"]
    for damage in ("[]", '{"messages": [{"role": "system", "content": ""}]}', "{", '{"messages": [3]}'):
        file.write_text(damage)
        chat(f"/load {file}", "two")
        assert "not a saved conversation" in chat.err
        assert chat.asked() == ["two"]


def test_a_full_context_is_an_error_until_the_person_drops_turns(chat: Chat, model: FakeModel) -> None:
    model.context = 4  # words
    assert chat("a b c", "d e", "/drop", "f g", "d e") == ContextLengthError.exit_code
    assert "needs 6 tokens, the context holds 4" in chat.err
    assert "/drop leaves out the oldest turn" in chat.err
    assert chat.out == "Fine.\n"  # "/drop" never drops the only turn there is, so nothing fits
    model.calls.clear()
    assert chat("a", "b", "/drop", "c d") == 0
    assert chat.asked(0) == ["a"] and chat.asked(1) == ["a", "Fine.", "b"]
    assert chat.asked(2) == ["b", "Fine.", "c d"]
    assert chat.out == "Fine.\n" * 3


def test_dropped_turns_stay_in_the_record(chat: Chat) -> None:
    chat("a", "b", "/drop", "c")
    chat("/save /dev/stdout", "d", flags="--continue")
    assert chat.asked() == ["b", "Fine.", "c", "Fine.", "d"]
    chat(flags="--list --json")
    assert json.loads(chat.out)[0]["messages"] == 8


def test_drop_old_drops_by_itself_when_asked(chat: Chat, model: FakeModel) -> None:
    model.context = 4
    assert chat("a", "b", "c", "d e f g h", flags="--drop-old") == ContextLengthError.exit_code
    assert chat.asked(3) == ["b", "Fine.", "c"]
    assert "the oldest turn no longer goes to the model" in chat.err
    assert "needs 5 tokens" in chat.err  # this message alone is too long: an error, nothing is cut


def test_ctrl_c_keeps_the_part_that_was_shown(chat: Chat, model: FakeModel) -> None:
    model.answer, model.interrupt_at = "This is long.", 2
    assert chat("one", "two") == 0
    assert chat.out == "This is\nThis is\n"
    assert chat.asked() == ["one", "This is", "two"]
    assert model.cancelled == 2


def test_ctrl_c_before_any_text_takes_the_message_back(chat: Chat, model: FakeModel) -> None:
    model.interrupt_at = 0
    assert chat("one", "two") == 0
    assert chat.asked() == ["two"]
    assert chat("--list", flags="--list --json") == 0
    assert json.loads(chat.out) == []


def test_json_prints_one_line_for_each_answer(chat: Chat) -> None:
    assert chat("one", "/set x", "two", flags="--json") == 0
    first, error, second = (json.loads(line) for line in chat.out.splitlines())
    assert first["text"] == second["text"] == "Fine."
    assert error["error"]["type"] == "InvalidRequestError"


def test_normalisations_are_said_once(chat: Chat, model: FakeModel) -> None:
    model.normalisations = ("a base model",)
    chat("one", "two", flags="--stats")
    assert chat.err.count("a base model") == 1
    assert chat.err.count("tokens/s") == 4  # prefill and decode, twice


@pytest.mark.parametrize(
    ("text", "is_open", "message"),
    [
        ("hello", False, "hello"),
        ('"""a', True, "a"),
        ('"""a\nb"""', False, "a\nb"),
        ('"""\n  a\n"""', False, "  a"),
        ('say """', False, 'say """'),
    ],
)
def test_blocks(text: str, is_open: bool, message: str) -> None:
    assert is_open_block(text) == is_open
    assert without_marks(text) == message
