"""Asking and showing one answer of a chat: stream, stop, room in the context."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

from gemlet.cli.markdown import MarkdownStream
from gemlet.cli.session import Session
from gemlet.cli.terminal import is_screen, note, print_json, printable
from gemlet.errors import ContextLengthError, InvalidRequestError
from gemlet.types import Completion, Message, as_dict

NO_ROOM_HINT = (
    "Nothing was cut. /drop leaves out the oldest turn, /clear starts again,\n"
    "and chat --drop-old drops old turns by itself when there is no room."
)


class Screen(Protocol):
    """Where an answer is shown."""

    def push(self, text: str) -> None: ...

    def finish(self) -> None: ...


class PlainScreen:
    """Text as it is: for pipes and files, and for terminals without control sequences."""

    def push(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def finish(self) -> None:
        pass


class MarkdownScreen:
    """Rendered Markdown, for a terminal."""

    def __init__(self) -> None:
        self._stream = MarkdownStream(
            _write, width=shutil.get_terminal_size().columns, colour=not os.environ.get("NO_COLOR")
        )

    def push(self, text: str) -> None:
        self._stream.push(printable(text))
        sys.stdout.flush()

    def finish(self) -> None:
        self._stream.finish()
        sys.stdout.flush()


def _write(text: str) -> None:
    sys.stdout.write(text)


class NoScreen:
    """Nothing while the answer is written: with --json it is printed whole."""

    def push(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


class Talk:
    """Asks the model and shows its answers, for the session it is given."""

    def __init__(
        self,
        session: Session,
        *,
        as_json: bool,
        drop_old: bool,
        quiet: bool,
        stats: Callable[[Completion], str] | None,
    ) -> None:
        self.session = session
        self._as_json = as_json
        self._drop_old = drop_old
        self._quiet = quiet
        self._stats = stats
        self._said: set[str] = set()

    def ask(self, text: str) -> None:
        """Answer a new message. Where there is no answer, the message is taken back."""
        self.session.messages.append(Message("user", text))
        done = False
        try:
            done = self._answer()
        finally:
            if not done:
                self.session.messages.pop()

    def ask_again(self) -> None:
        """Replace the last answer. Where there is no new one, the old one stays."""
        messages = self.session.messages
        if not messages:
            raise InvalidRequestError("there is nothing to answer again yet")
        old = messages.pop() if messages[-1].role == "assistant" else None
        done = False
        try:
            done = self._answer()
        finally:
            if not done and old is not None:
                messages.append(old)

    def _answer(self) -> bool:
        """Show an answer and add it to the conversation; False where Ctrl-C came before any text."""
        while True:
            try:
                text, completion = self._stream()
                break
            except ContextLengthError as error:
                if not (self._drop_old and self.session.drop(1)):
                    raise ContextLengthError(error.needed, error.context, hint=NO_ROOM_HINT) from None
                note("the context is full: the oldest turn no longer goes to the model")
        if completion is None and not text.strip():
            note("stopped before an answer; your message was taken back")
            return False
        self.session.answered(text, completion)
        self._afterwards(text, completion)
        return True

    def _stream(self) -> tuple[str, Completion | None]:
        screen = self._screen()
        pieces: list[str] = []
        completion: Completion | None = None
        events: Any = self.session.stream()
        with closing(events):
            try:
                for event in events:
                    pieces.append(event.text)
                    screen.push(event.text)
                    completion = event.completion or completion
            except KeyboardInterrupt:
                pass
        screen.finish()
        if pieces and not self._as_json:
            print("" if pieces[-1].endswith("\n") else "\n", end="", flush=True)
        return "".join(pieces), completion

    def _screen(self) -> Screen:
        if self._as_json:
            return NoScreen()
        return MarkdownScreen() if is_screen(sys.stdout) else PlainScreen()

    def _afterwards(self, text: str, completion: Completion | None) -> None:
        if self._as_json:
            document = (
                {"text": text, "finish_reason": "cancelled"} if completion is None else as_dict(completion)
            )
            print_json(document)
        if completion is None:
            note("stopped")
            return
        if completion.finish_reason == "length" and self.session.options.get("max_tokens") is None:
            note(f"the answer ends here because the context is full. {NO_ROOM_HINT}")
        if not self._quiet:
            for line in completion.normalisations:
                if line not in self._said:
                    self._said.add(line)
                    note(line)
        if self._stats is not None:
            print(self._stats(completion), file=sys.stderr, flush=True)
