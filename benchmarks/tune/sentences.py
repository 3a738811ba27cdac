"""Sentence templates (alternatives, options, any order, rules, lists) as random sentences.

`(a|b)` one of, `[a|b]` one of or nothing, `(a;b)` all in any order, `<rule>` a named template, `{list:slot}`
a value of a list that fills a slot (`{list}`: of the same name).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Any

_TOKEN = re.compile(r"[()\[\]|;]|<[^<>]+>|\{[^{}]+\}|[^()\[\]|;<>{}]+")


@dataclass(frozen=True)
class Value:
    """What is said, itself a template, and what it means."""

    text: str
    meaning: Any


@dataclass(frozen=True)
class Part:
    """`kind`: text, rule, list, sequence (all in order), choice (one of) or any_order. `slot`: of a list."""

    kind: str
    text: str = ""
    slot: str = ""
    parts: tuple[Part, ...] = ()


Lists = Mapping[str, Sequence[Value]]


def parse(template: str) -> Part:
    """The template as a tree. ValueError names the template and what is wrong with it."""
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise ValueError(f"{template!r}: a bracket stands alone")
    part, rest = _parse_alternatives(tokens, template)
    if rest:
        raise ValueError(f"{template!r}: {rest[0]!r} closes nothing")
    return part


def _parse_alternatives(tokens: list[str], template: str) -> tuple[Part, list[str]]:
    """Up to the bracket that closes them, or the end."""
    sequences: list[list[Part]] = [[]]
    separators = set()
    while tokens and tokens[0] not in (")", "]"):
        token, tokens = tokens[0], tokens[1:]
        if token in ("|", ";"):
            separators.add(token)
            sequences.append([])
        elif token in ("(", "["):
            inner, tokens = _parse_alternatives(tokens, template)
            if not tokens or tokens[0] != {"(": ")", "[": "]"}[token]:
                raise ValueError(f"{template!r}: {token!r} is not closed")
            tokens = tokens[1:]
            sequences[-1].append(inner if token == "(" else Part("choice", parts=(inner, Part("text"))))
        elif token[0] == "<":
            sequences[-1].append(Part("rule", token[1:-1]))
        elif token[0] == "{":
            name, _, slot = token[1:-1].partition(":")
            sequences[-1].append(Part("list", name, slot or name))
        else:
            sequences[-1].append(Part("text", token))
    if len(separators) > 1:
        raise ValueError(f"{template!r}: '|' and ';' need brackets between them")
    parts = tuple(Part("sequence", parts=tuple(parts)) for parts in sequences)
    if len(parts) == 1:
        return parts[0], tokens
    return Part("any_order" if separators == {";"} else "choice", parts=parts), tokens


@dataclass(frozen=True)
class Grammar:
    """Rules and lists that templates refer to."""

    rules: Mapping[str, Part]
    lists: Lists

    def draw(self, part: Part, random: Random) -> tuple[str, dict[str, Any]]:
        """A sentence with single spaces, and the meaning of its slots. KeyError: an unknown rule or list."""
        slots: dict[str, Any] = {}
        return " ".join(self._draw(part, random, slots).split()), slots

    def _draw(self, part: Part, random: Random, slots: dict[str, Any]) -> str:
        if part.kind == "text":
            return part.text
        if part.kind == "rule":
            return self._draw(self.rules[part.text], random, slots)
        if part.kind == "list":
            value = random.choice(self.lists[part.text])
            slots[part.slot] = value.meaning
            return self._draw(parse(value.text), random, slots)
        if part.kind == "choice":
            return self._draw(random.choice(part.parts), random, slots)
        parts = list(part.parts)
        if part.kind == "any_order":
            random.shuffle(parts)
        between = " " if part.kind == "any_order" else ""
        return between.join(self._draw(inner, random, slots) for inner in parts)

    def pattern(self, part: Part) -> re.Pattern[str]:
        """Matches, whole, every sentence that the template can give, spaces left out."""
        return re.compile(self._pattern(part))

    def _pattern(self, part: Part) -> str:
        if part.kind == "text":
            return re.escape("".join(part.text.split()))
        if part.kind == "rule":
            return self._pattern(self.rules[part.text])
        if part.kind == "list":
            return self._one_of(self._pattern(parse(value.text)) for value in self.lists[part.text])
        inner = [self._pattern(one) for one in part.parts]
        if part.kind == "choice":
            return self._one_of(inner)
        if part.kind == "any_order":
            return self._one_of("".join(order) for order in permutations(inner))
        return "".join(inner)

    @staticmethod
    def _one_of(patterns: Iterator[str] | list[str]) -> str:
        return "(?:" + "|".join(dict.fromkeys(patterns)) + ")"
