"""What the person types in `gemlet chat`: one message at a time, with history and several lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gemlet.cli.terminal import is_screen, note
from gemlet.errors import TextError

PROMPT = ">>> "
MORE = "... "
BLOCK = '"""'


class Reader(Protocol):
    """Gives messages. Raises EOFError at the end (Ctrl-D), KeyboardInterrupt for Ctrl-C on an empty line."""

    def read(self) -> str: ...


def open_reader(history: Path | None, commands: Sequence[str]) -> Reader:
    """The best reader for this standard input. `history`: file of earlier input, None to remember nothing."""
    if not sys.stdin.isatty():
        return PipedReader()
    if is_screen(sys.stdout):
        try:
            return PromptReader(history, commands)
        except ImportError:
            note("plain input; for editing, history search and Alt-Enter: pip install 'gemlet[chat]'")
    return PlainReader(history)


def is_open_block(text: str) -> bool:
    """Whether a block of several lines has begun and not ended."""
    return text.lstrip().startswith(BLOCK) and text.count(BLOCK) < 2


def without_marks(text: str) -> str:
    """The message without the marks of a block around it."""
    stripped = text.strip()
    if stripped.startswith(BLOCK):
        stripped = stripped[len(BLOCK) :]
        return stripped.removesuffix(BLOCK).strip("\n")
    return text


def _private(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return path


class PipedReader:
    """Lines of standard input that is not a terminal: a script of a conversation, UTF-8 in every locale."""

    def read(self) -> str:
        data = sys.stdin.buffer.readline()
        if not data:
            raise EOFError
        text = self._text(data)
        while is_open_block(text) and (data := sys.stdin.buffer.readline()):
            text += self._text(data)
        return without_marks(text.rstrip("\r\n"))

    def _text(self, line: bytes) -> str:
        try:
            return line.decode().replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            problem = f"{error.reason} at byte {error.start} of the line"
            raise TextError(f"standard input is not UTF-8 text: {problem}") from None


class PlainReader:
    """The terminal's own line editing."""

    def __init__(self, history: Path | None) -> None:
        self._readline: Any = None
        with contextlib.suppress(ImportError):  # not there on every platform
            import readline

            self._readline = readline
        self._history = history
        if self._readline is not None and history is not None:
            with contextlib.suppress(OSError):
                self._readline.read_history_file(_private(history))

    def read(self) -> str:
        text = input(PROMPT)
        while is_open_block(text):
            text += "\n" + input(MORE)
        if self._readline is not None and self._history is not None:
            with contextlib.suppress(OSError):
                self._readline.append_history_file(1, _private(self._history))
        return without_marks(text)


class PromptReader:
    """prompt_toolkit: editing, history search, Alt-Enter for a new line, commands completed with Tab."""

    def __init__(self, history: Path | None, commands: Sequence[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory() if history is None else FileHistory(str(_private(history))),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=MORE,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
        )

    def read(self) -> str:
        return without_marks(self._session.prompt(PROMPT))


def _keys() -> Any:
    """Enter sends unless a block is open, Alt-Enter starts a line, Ctrl-C empties the line or interrupts."""
    from prompt_toolkit.filters import completion_is_selected
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter", filter=~completion_is_selected)
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys
