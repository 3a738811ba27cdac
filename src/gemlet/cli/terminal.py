"""What the terminal gets: notices on standard error, safe text on standard output."""

from __future__ import annotations

import codecs
import json
import os
import sys
from contextlib import suppress
from typing import Any

from gemlet.errors import GemletError

# Control characters that a model could emit to move the cursor or recolour the screen. Tab and newline stay.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}


EXIT_INTERRUPTED = 130
"""After Ctrl-C, as shells have it."""


def note(text: str) -> None:
    """One line for the person, on standard error, so that standard output stays the answer alone."""
    print(f"gemlet: {text}", file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """An error message; further lines are indented under the first."""
    first, *others = message.splitlines() or [""]
    note("\n".join([first, *(f"        {line}" for line in others)]))


def print_json(document: Any) -> None:
    """One JSON document as a line of standard output, whole also where that has no UTF-8."""
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    print(json.dumps(document, ensure_ascii=encoding != "utf-8"), flush=True)


def report_error(error: GemletError, *, as_json: bool) -> None:
    """Say an error: on standard error, or as a JSON document where the answer would have been."""
    if not as_json:
        complain(str(error))
        return
    described = {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    print_json({"error": described})


def printable(text: str) -> str:
    """The text with terminal control characters made visible, for output that goes to a screen."""
    return text.translate(_CONTROLS)


def is_screen(stream: object) -> bool:
    """Whether a stream is a terminal that understands control sequences."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM") != "dumb"


def silence_stdout() -> None:
    """Point standard output at nothing, so that flushing it at exit cannot fail again after a broken pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
