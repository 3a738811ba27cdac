"""The prompt of `gemlet run`: argument, standard input and files, joined in a fixed order."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gemlet.cli.terminal import note
from gemlet.errors import InvalidRequestError, TextError

NO_PROMPT_HINT = 'give it as an argument, gemlet run "…", with -p, with -f FILE, or on standard input'
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class PromptSources:
    """Where the prompt comes from. `texts` are arguments; one that is "-" stands for standard input."""

    texts: tuple[str, ...]
    files: tuple[str, ...]
    raw: bool


def read_prompt(sources: PromptSources, stdin: BinaryIO | None, *, tell: Callable[[str], None] = note) -> str:
    """The prompt: files first, then standard input, then the arguments, with blank lines between.

    One final newline of a file or of standard input is dropped (editors and `echo` add it); nothing else is
    changed. Standard input is read when it is asked for with "-", and whenever it is not a terminal.
    Raises InvalidRequestError without a prompt, TextError where bytes are not UTF-8.
    """
    asked_for_stdin = "-" in sources.texts
    texts = [text for text in sources.texts if text != "-"]
    parts = _file_parts(sources)
    if asked_for_stdin or (stdin is not None and not stdin.isatty()):
        piped = _read_stdin(stdin, patient=asked_for_stdin or not (texts or parts), tell=tell)
        if piped:
            parts.append(piped)
    parts += [_checked(text) for text in texts]
    if not parts and not asked_for_stdin and (stdin is None or stdin.isatty()):
        raise InvalidRequestError("there is no prompt", hint=NO_PROMPT_HINT)
    prompt = "\n\n".join(parts)
    if not (prompt if sources.raw else prompt.strip()):
        raise InvalidRequestError("the prompt is empty", hint=NO_PROMPT_HINT)
    return prompt


def _file_parts(sources: PromptSources) -> list[str]:
    contents = [decode_text(Path(name).read_bytes(), name) for name in sources.files]
    if sources.raw or len(contents) < 2:
        return contents
    return [f"--- {name} ---\n{content}" for name, content in zip(sources.files, contents, strict=True)]


def _read_stdin(stdin: BinaryIO | None, *, patient: bool, tell: Callable[[str], None]) -> str:
    if stdin is None:
        raise InvalidRequestError("standard input is closed", hint=NO_PROMPT_HINT)
    if not patient and not _ready(stdin):
        # A prompt was given too, so an open pipe that nobody writes to would look like a hang.
        tell("waiting for standard input; to answer without it, add </dev/null")
    return decode_text(stdin.read(), "standard input")


def _ready(stdin: BinaryIO) -> bool:
    if sys.platform == "win32":
        return True
    try:
        return bool(select.select([stdin], [], [], _PATIENCE_S)[0])
    except (OSError, ValueError):  # not a real file: nothing to wait for
        return True


def decode_text(data: bytes, name: str) -> str:
    """Text of a file or of standard input, without one final newline. TextError unless it is UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}",
            hint="convert it first, for example: iconv -f latin1 -t utf-8",
        ) from None
    if text.endswith("\r\n"):
        return text[:-2]
    return text[:-1] if text.endswith("\n") else text


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise TextError("the prompt argument holds bytes that are not UTF-8 text") from None
    return text
