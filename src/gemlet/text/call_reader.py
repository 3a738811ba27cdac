"""Finds the calls in an answer as it is written: text in, text and calls out."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gemlet.types import ToolCall, ToolCallDelta

_SPACE = re.compile(r"[ \t\r\n]*")
_FENCE = "```"
_FENCE_LABEL = re.compile(r"[a-z_]+[ \t]*")
"""A fence without one may be the end of another block, so it stays text."""
_ALPHABET = string.ascii_letters + string.digits
_MAX_DEPTH = 256
"""Lists and objects inside each other; deeper ones are no arguments. A JSON reader can take so many."""


@dataclass(frozen=True)
class Piece:
    """What a push made certain: text of the answer, and pieces of its calls."""

    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class _CutShort(Exception):
    """The text ends before it is known whether it is what is looked for."""


class _Mismatch(Exception):
    """The text is not what is looked for."""


class CallReader:
    """Reads an answer that comes in pieces; how it is cut does not change what is read.

    A call is `{"name": ..., "parameters": {...}}` of a function in `names`, at the start of a line or right
    after another call, with any whitespace, perhaps inside a labelled code fence. Whitespace before a call
    and the fence belong to it; all other text is given out, and held back only as long as it may still
    become a call. "arguments" is read as "parameters"; a call without either has none.

    `constrained`: a grammar makes sure that what begins as a call is one, so its arguments are given out as
    they come. A call that the answer's end cuts short then stays a call, with the arguments it has got, and
    what has begun after a call without naming its function is dropped.
    Otherwise a call is given out when it is complete, and what turns out to be none is text.

    `seed` makes the ids of the calls repeatable. `parallel` false: what follows the first call is text.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        constrained: bool,
        parallel: bool = True,
        seed: int | str | None = None,
    ) -> None:
        self._names = tuple(names)
        self._constrained = constrained
        self._parallel = parallel
        self._random = random.Random(seed)
        self._calls: list[ToolCall] = []
        self._state: Literal["line", "opening", "arguments", "closing"] = "opening"
        self._held = ""  # in every state but "line": the text since the last that was given out
        self._fenced = self._begun_fenced = False
        self._after_call = False
        self._name = ""
        self._scan = _ObjectScan()
        self._started = 0  # where in `_held` the arguments begin
        self._at = 0  # how much of `_held` has been looked at, in "arguments"
        self._given = 0  # how much of the arguments has been given out
        self._text: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in their order; all of them after `finish`."""
        return tuple(self._calls)

    def push(self, text: str) -> Piece:
        """What more text makes certain."""
        self._held += text
        while self._step():
            pass
        return self._take()

    def finish(self) -> Piece:
        """The rest, when no more text comes."""
        if self._constrained and self._state == "arguments":
            self._give_arguments(len(self._held))
        elif self._state == "opening" and self._after_call and (self._constrained or not self._held.strip()):
            pass  # whitespace after the last call, or the beginning of one that was cut short
        elif not (self._constrained and self._state == "closing"):
            self._text.append(self._held)
        self._held = ""
        return self._take()

    def _take(self) -> Piece:
        piece = Piece("".join(self._text), tuple(self._deltas))
        self._text, self._deltas = [], []
        return piece

    def _step(self) -> bool:
        """Make progress with what is held; false when more text is needed."""
        steps = {"line": self._line, "opening": self._opening, "closing": self._closing}
        return bool(self._held) and steps.get(self._state, self._arguments)()

    def _line(self) -> bool:
        """The rest of a line that is text. Only its end may begin a call."""
        end = self._held.find("\n")
        if end < 0:
            self._give_text(len(self._held))
            return False
        self._give_text(end)
        self._state = "opening"
        return True

    def _opening(self) -> bool:
        try:
            if self._fenced and (end := _fence_end(self._held)):
                self._held, self._fenced = self._held[end:], False
                return True
            self._begun_fenced, self._name, end = _read_opening(self._held, self._names)
            has_arguments, end = _read_before_arguments(self._held, end)
        except _CutShort:
            return False
        except _Mismatch:
            # A newline in what is held may still begin a call.
            next_line = self._held.find("\n", 1)
            self._give_text(next_line if next_line > 0 else len(self._held))
            self._state = "opening" if next_line > 0 else "line"
            return True
        if has_arguments:
            self._begin_arguments(end)
        else:
            self._start_call("{}")
            self._end_call(end)
        return True

    def _begin_arguments(self, at: int) -> None:
        self._state = "arguments"
        self._scan, self._started, self._at, self._given = _ObjectScan(), at, at, 0
        if self._constrained:
            self._start_call("")

    def _arguments(self) -> bool:
        try:
            self._at, complete = self._scan.read(self._held, self._at)
        except _Mismatch:
            self._give_up(self._scan.failed_at)
            return True
        if complete and not (self._constrained or _is_object(self._held[self._started : self._at])):
            self._give_up(self._at)
            return True
        if self._constrained:
            self._give_arguments(self._at)
        if complete:
            self._state = "closing"
        return complete

    def _closing(self) -> bool:
        """The brace that ends a call, after its arguments."""
        end = _skip_space(self._held, self._at)
        if end == len(self._held):
            return False
        if self._held[end] != "}":
            self._give_up(self._at)
            return True
        if not self._constrained:
            self._start_call(self._held[self._started : self._at])
        self._end_call(end + 1)
        return True

    def _give_up(self, at: int) -> None:
        """What is held is no call, up to here. One that has been given out already ends here."""
        if self._constrained:
            self._give_arguments(at)
            self._held = self._held[at:]
        else:
            self._give_text(at)
        self._state = "line"

    def _start_call(self, arguments: str) -> None:
        id = "call_" + "".join(self._random.choices(_ALPHABET, k=24))
        index = len(self._calls)
        self._calls.append(ToolCall(id, self._name, arguments))
        self._deltas.append(ToolCallDelta(index, id, self._name))
        if arguments:
            self._deltas.append(ToolCallDelta(index, arguments=arguments))

    def _give_arguments(self, end: int) -> None:
        """The arguments that are new, up to here in what is held, as a piece of the last call."""
        new = self._held[self._started + self._given : end]
        if new:
            call = self._calls[-1]
            self._calls[-1] = ToolCall(call.id, call.name, call.arguments + new)
            self._deltas.append(ToolCallDelta(len(self._calls) - 1, arguments=new))
            self._given += len(new)

    def _end_call(self, at: int) -> None:
        self._held = self._held[at:]
        self._fenced = self._fenced or self._begun_fenced
        self._after_call = True
        if not self._parallel:
            self._names = ()
        self._state = "opening"

    def _give_text(self, count: int) -> None:
        if count:
            self._text.append(self._held[:count])
            self._held = self._held[count:]
            self._after_call = self._fenced = False


class _ObjectScan:
    """Finds the end of a JSON object, and most of what makes it none. The rest is for a JSON reader."""

    def __init__(self) -> None:
        self.failed_at = 0
        self._open: list[str] = []
        self._in_string = self._escaped = False

    def read(self, text: str, at: int) -> tuple[int, bool]:
        """Go on at `at`; where the object ends, or the text, and whether it was the object. Or _Mismatch."""
        for position in range(at, len(text)):
            character = text[position]
            if not self._fits(character):
                self.failed_at = position
                raise _Mismatch
            if not self._open:
                return position + 1, True
        return len(text), False

    def _fits(self, character: str) -> bool:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
            return character >= " "
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._open.append("}" if character == "{" else "]")
            return len(self._open) <= _MAX_DEPTH
        elif character in "}]":
            return self._open.pop() == character
        return True


def _read_opening(text: str, names: Sequence[str]) -> tuple[bool, str, int]:
    """Whether the call is inside a fence, the function's name, and where the opening ends."""
    at = _skip_space(text, 0)
    fenced = text.startswith(_FENCE, at)
    if fenced or _FENCE.startswith(text[at:]):
        at = _read(text, at, _FENCE)
        label = _FENCE_LABEL.match(text, at)
        if label is None:
            raise _CutShort if at == len(text) else _Mismatch
        at = _skip_space(text, _read(text, label.end(), "\n"))
    for literal in ("{", '"name"', ":"):
        at = _skip_space(text, _read(text, at, literal))
    at = _read(text, at, '"')
    name, at = _read_one_of(text, at, [f'{name}"' for name in names])
    return fenced, name[:-1], at


def _read_before_arguments(text: str, at: int) -> tuple[bool, int]:
    """Whether the call has arguments, and where they begin, or where the call ends."""
    following, at = _read_one_of(text, _skip_space(text, at), (",", "}"))
    if following == "}":
        return False, at
    _, at = _read_one_of(text, _skip_space(text, at), ('"parameters"', '"arguments"'))
    at = _skip_space(text, _read(text, _skip_space(text, at), ":"))
    _read(text, at, "{")
    return True, at


def _fence_end(text: str) -> int:
    """Where a closing fence before any other text ends, 0 if there is none."""
    at = _skip_space(text, 0)
    try:
        return _read(text, at, _FENCE)
    except _Mismatch:
        return 0


def _read(text: str, at: int, literal: str) -> int:
    return _read_one_of(text, at, (literal,))[1]


def _read_one_of(text: str, at: int, literals: Sequence[str]) -> tuple[str, int]:
    """The literal that stands here and where it ends; none is the beginning of another."""
    rest = text[at : at + max(map(len, literals), default=0)]
    for literal in literals:
        if rest.startswith(literal):
            return literal, at + len(literal)
    if any(literal.startswith(rest) for literal in literals):
        raise _CutShort
    raise _Mismatch


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_refuse), dict)
    except ValueError:
        return False


def _refuse(constant: str) -> None:
    """NaN and the infinities, which Python's reader takes and JSON does not have."""
    raise ValueError(constant)
