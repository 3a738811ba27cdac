"""Regular expressions over module names, as adapter configurations hold them, matched in bounded time.

A pattern comes from a file that nobody vouches for, and Python's `re` can be made to search for ever. Here
a part of a pattern is searched once at each position of a name, and the steps of all that are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

MOST_CHARACTERS = 1024
MOST_DEPTH = 20
MOST_REPEATS = 256
STEPS = 2_000_000
"""Of one `Patterns`: hundreds of modules against long patterns stay far below."""

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdigit,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}


class PatternError(ValueError):
    """A pattern with something in it that is not supported, or that takes too long."""


@dataclass(frozen=True, eq=False)
class _Set:
    """One character."""

    test: Callable[[str], bool]


@dataclass(frozen=True, eq=False)
class _Place:
    """No character, but a place: `^`, `$`, or `b`, where a word begins or ends."""

    kind: str


@dataclass(frozen=True, eq=False)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, eq=False)
class _Choice:
    options: tuple[_Node, ...]


@dataclass(frozen=True, eq=False)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Set | _Place | _Sequence | _Choice | _Repeat


class _Parser:
    """Python's syntax: characters, `.`, classes, groups, `|`, greedy and lazy repeats, `^`, `$`, `\\b`."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise PatternError(f"has {len(text)} characters, more than {MOST_CHARACTERS}")
        self._text = text
        self._at = 0

    def parse(self) -> _Node:
        node = self._choice(0)
        if self._at < len(self._text):
            self._fail("a ) that closes nothing")
        return node

    def _fail(self, what: str) -> NoReturn:
        raise PatternError(f"{self._text[:80]!r} has {what}, which is not supported")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        taken = self._text.startswith(text, self._at)
        self._at += len(text) if taken else 0
        return taken

    def _choice(self, depth: int) -> _Node:
        if depth > MOST_DEPTH:
            self._fail(f"groups more than {MOST_DEPTH} deep")
        options = [self._sequence(depth)]
        while self._take("|"):
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self, depth: int) -> _Node:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeats(self._single(depth)))
        return _Sequence(tuple(parts))

    def _single(self, depth: int) -> _Node:
        character = self._next()
        self._at += 1
        if character == "(":
            if self._take("?") and not self._take(":"):
                self._fail("a group of a special kind")
            node = self._choice(depth + 1)
            if not self._take(")"):
                self._fail("a group without its end")
            return node
        if character == "[":
            return self._class()
        if character in "^$":
            return _Place(character)
        if character == ".":
            return _Set(lambda c: c != "\n")
        if character in "*+?{":
            self._fail(f"a {character} behind nothing")
        if character == "\\":
            if self._take("b"):
                return _Place("b")
            return _Set(self._escape())
        return _Set(character.__eq__)

    def _escape(self) -> Callable[[str], bool]:
        character = self._next()
        self._at += 1
        if character.lower() in _CLASSES:
            test = _CLASSES[character.lower()]
            return test if character.islower() else lambda c: not test(c)
        if not character or character.isalnum():
            self._fail(f"\\{character}")
        return character.__eq__

    def _class(self) -> _Node:
        negative, tests, first = self._take("^"), list[Callable[[str], bool]](), True
        while first or self._next() != "]":
            low = self._next()
            self._at += 1
            if not low or low == "[":
                self._fail("a set of characters that cannot be read")
            test = self._escape() if low == "\\" else low.__eq__
            high = self._text[self._at + 1 : self._at + 2]
            if low != "\\" and self._next() == "-" and high not in ("", "]"):
                self._at += 2
                if high in "\\[" or high < low:
                    self._fail("a range of characters that cannot be read")
                test = _range(low, high)
            tests.append(test)
            first = False
        self._at += 1
        return _Set(lambda c: any(test(c) for test in tests) != negative)

    def _repeats(self, node: _Node) -> _Node:
        repeat = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._next())
        if repeat is not None:
            self._at += 1
        elif self._next() == "{":
            repeat = self._counts()
        if repeat is None:
            return node
        self._take("?")  # lazy or greedy: what matters is only whether the whole fits
        if self._next() and self._next() in "*+?{":
            self._fail("a repeat of a repeat")
        return _Repeat(node, *repeat)

    def _counts(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        numbers = low + high
        if end < 0 or not numbers.isascii() or not numbers.isdigit() or max(len(low), len(high)) > 3:
            self._fail("a { that counts nothing")
        least = int(low or "0")
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > MOST_REPEATS or (most is not None and most < least):
            self._fail(f"a repeat of more than {MOST_REPEATS} or of fewer than none")
        self._at = end + 1
        return least, most


def _range(low: str, high: str) -> Callable[[str], bool]:
    return lambda c: low <= c <= high


class Patterns:
    """Patterns by their text, read once. Methods raise PatternError."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._steps = 0

    def fits(self, pattern: str, name: str) -> bool:
        """Whether the whole name is what the pattern describes, as `re.fullmatch` has it."""
        if pattern not in self._nodes:
            self._nodes[pattern] = _Parser(pattern).parse()
        return len(name) in self._ends(self._nodes[pattern], name, 0, {})

    def fits_end(self, pattern: str, name: str) -> bool:
        """Whether the name, or what follows one of its dots, is what the pattern describes."""
        parts = name.split(".")
        return any(self.fits(pattern, ".".join(parts[first:])) for first in range(len(parts)))

    def _ends(self, node: _Node, text: str, at: int, known: dict[tuple[int, int], set[int]]) -> set[int]:
        """Every position at which the node can end that begins at `at`."""
        self._steps += 1
        if self._steps > STEPS:
            raise PatternError("take too long to compare with the model's modules")
        key = id(node), at
        if key not in known:
            known[key] = self._find(node, text, at, known)
        return known[key]

    def _find(self, node: _Node, text: str, at: int, known: dict[tuple[int, int], set[int]]) -> set[int]:
        if isinstance(node, _Set):
            return {at + 1} if at < len(text) and node.test(text[at]) else set()
        if isinstance(node, _Place):
            return {at} if _is_place(node.kind, text, at) else set()
        if isinstance(node, _Choice):
            return set().union(*(self._ends(option, text, at, known) for option in node.options))
        ends = {at}
        if isinstance(node, _Sequence):
            for part in node.parts:
                ends = set().union(*(self._ends(part, text, end, known) for end in ends))
            return ends
        found = {at} if node.least == 0 else set[int]()
        for count in range(1, MOST_REPEATS + 1 if node.most is None else node.most + 1):
            before, ends = ends, set().union(*(self._ends(node.part, text, end, known) for end in ends))
            if count >= node.least:
                found |= ends
            if not ends or (ends == before and count >= node.least):
                break
        return found


def _is_place(kind: str, text: str, at: int) -> bool:
    if kind in "^$":
        return at == (0 if kind == "^" else len(text))
    word = _CLASSES["w"]
    return (at > 0 and word(text[at - 1])) != (at < len(text) and word(text[at]))
