"""Markdown on the screen while it is being written.

Nothing is drawn twice, so nothing flickers and nothing is lost when an answer is longer than the screen.
A span such as `**bold**` is held back until it closes or its line ends; the rest appears word by word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

RESET = "\x1b[0m"
BOLD, DIM, ITALIC, CYAN = "\x1b[1m", "\x1b[2m", "\x1b[3m", "\x1b[36m"

# A line beginning that may still become a marker when more text arrives.
_UNDECIDED = re.compile(r" *(#{1,6}|[-*_+=]+|`+[^`]*|~+[^~]*|\d{1,3}[.)]?|>|)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_HEADING = re.compile(r"#{1,6} ")
_RULE = re.compile(r" *([-*_] *){3,}")
_ITEM = re.compile(r"( *)([-*+]|\d{1,3}[.)]) ")
_QUOTE = re.compile(r" {0,3}> ?")
_SPAN = re.compile(
    r"(?P<mark>\*{1,3})(?=[^\s*])(?P<text>.*?[^\s*])(?P=mark)(?!\*)"
    r"|(?P<ticks>`+)(?P<code>[^`].*?)(?<!`)(?P=ticks)(?!`)"
)
_LONE_MARK = re.compile(r"\*+(?=\s)")
_STYLES = {1: ITALIC, 2: BOLD, 3: BOLD + ITALIC}


@dataclass(frozen=True)
class Style:
    """How text is shown: control sequences before it, and whether lines may be broken between words."""

    codes: str = ""
    wrap: bool = True


PLAIN = Style()


class WordWriter:
    """Writes words, breaking lines between them at `width` columns; `indent` spaces begin continued lines."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write = write
        self._width = width
        self._column = 0
        self._word: list[tuple[str, Style]] = []
        self._word_width = 0
        self.indent = 0

    def put(self, text: str, style: Style = PLAIN) -> None:
        """Add text without newlines."""
        if not style.wrap:
            self.flush()
            self._emit(text, style)
            return
        for char in text:
            if char.isspace():
                self.flush()
                if self._column < self._width:
                    self._emit(char, style)
                continue
            columns = _columns(char)
            if columns == 2:
                self.flush()  # a line may be broken before and after every wide character
            self._word.append((char, style))
            self._word_width += columns
            if columns == 2:
                self.flush()

    def flush(self) -> None:
        """Write the word that is held back."""
        if not self._word:
            return
        if self._column + self._word_width > self._width and self._column > self.indent:
            self._write("\n" + " " * self.indent)
            self._column = self.indent
        for text, style in _joined(self._word):
            self._emit(text, style)
        self._word, self._word_width = [], 0

    def newline(self) -> None:
        """End the line."""
        self.flush()
        self._write("\n")
        self._column = self.indent = 0

    def _emit(self, text: str, style: Style) -> None:
        self._write(f"{style.codes}{text}{RESET}" if style.codes else text)
        self._column += sum(_columns(char) for char in text)


def _joined(pieces: list[tuple[str, Style]]) -> list[tuple[str, Style]]:
    runs: list[tuple[str, Style]] = []
    for text, style in pieces:
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + text, style)
        else:
            runs.append((text, style))
    return runs


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class MarkdownStream:
    """Takes Markdown in pieces of any size and writes styled text."""

    def __init__(self, write: Callable[[str], None], *, width: int, colour: bool = True) -> None:
        self._words = WordWriter(write, width)
        self._code = Style(CYAN if colour else BOLD)
        self._block = Style(CYAN if colour else "", wrap=False)
        self._pending = ""
        self._line_started = False
        self._fence: str | None = None
        self._line_style = PLAIN

    def push(self, text: str) -> None:
        """Take more text."""
        self._pending += text
        while "\n" in self._pending:
            line, _, self._pending = self._pending.partition("\n")
            self._line(line, complete=True)
            self._words.newline()
            self._line_started, self._line_style = False, PLAIN
        if self._pending:
            self._pending = self._line(self._pending, complete=False)

    def finish(self) -> None:
        """Write what is held back; the answer is over."""
        self._pending = self._line(self._pending, complete=True)
        self._words.flush()

    def _line(self, text: str, *, complete: bool) -> str:
        """Write what can be written of the rest of a line; returns what must wait."""
        if not self._line_started:
            if not complete and self._undecided(text):
                return text
            text = self._begin_line(text)
            self._line_started = True
        if self._fence is not None or self._line_style is self._block:
            self._words.put(text, self._line_style)
            return ""
        return self._inline(text, complete=complete)

    def _undecided(self, text: str) -> bool:
        if self._fence is not None:
            return self._fence.startswith(text.strip()[: len(self._fence)])
        return _UNDECIDED.fullmatch(text) is not None

    def _begin_line(self, text: str) -> str:
        """Recognise what kind of line starts here; returns the text after its marker."""
        if self._fence is not None:
            marks = text.strip()
            closes = marks.startswith(self._fence) and not marks.strip(self._fence[0])
            self._line_style = Style(DIM, wrap=False) if closes else self._block
            if closes:
                self._fence = None
                self._words.put(text, self._line_style)
                return ""
            return text
        if fence := _FENCE.fullmatch(text):
            self._fence = fence[1]
            self._words.put(text, Style(DIM, wrap=False))
            return ""
        if _HEADING.match(text):
            self._line_style = Style(BOLD)
        elif _RULE.fullmatch(text):
            self._words.put(text, Style(DIM))
            return ""
        elif item := _ITEM.match(text):
            marker = item[2] if item[2][0].isdigit() else "•"
            self._words.put(f"{item[1]}{marker} ")
            self._words.indent = len(item[1]) + len(marker) + 1
            return text[item.end() :]
        elif quote := _QUOTE.match(text):
            self._words.put("│ ", Style(DIM))
            self._words.indent = 2
            return text[quote.end() :]
        return text

    def _inline(self, text: str, *, complete: bool) -> str:
        position = 0
        while position < len(text):
            char = text[position]
            if char not in "*`":
                self._words.put(char, self._line_style)
                position += 1
            elif span := _SPAN.match(text, position):
                if not complete and span.end() == len(text):
                    return text[position:]  # one more mark could follow and change the meaning
                self._span(span)
                position = span.end()
            elif complete or _LONE_MARK.match(text, position):
                self._words.put(char, self._line_style)
                position += 1
            else:
                return text[position:]
        return ""

    def _span(self, span: re.Match[str]) -> None:
        if span["code"] is not None:
            self._words.put(span["code"], self._code)
            return
        outer = self._line_style
        self._line_style = Style(outer.codes + _STYLES[len(span["mark"])])
        self._inline(span["text"], complete=True)
        self._line_style = outer
