"""Limits for regular expressions and grammars, before anything compiles or follows them."""

from __future__ import annotations

import re

from gemlet.errors import InvalidRequestError

MAX_BRACKETS = 64
"""Brackets inside one another."""

_COUNTED = re.compile(r"\\.|\{(\d+)(?:,(\d*))?\}|[()]|.", re.DOTALL)


def check_size(name: str, size: int, limit: int) -> None:
    """InvalidRequestError for more bytes than are compiled."""
    if size > limit:
        raise InvalidRequestError(f"{name} has {size} bytes, at most {limit} are compiled")


def check_expression(name: str, text: str, limit: int) -> None:
    """InvalidRequestError for brackets too deep for a parser, or more than `limit` pieces once the counted
    repetitions are written out."""
    _check_brackets(name, text)
    if name != "grammar" and (len(text) - len(text.rstrip("\\"))) % 2:
        raise InvalidRequestError(f"{name} ends in a backslash that escapes nothing")
    sizes, last = [0], 0
    for part in _COUNTED.finditer(text):
        if part[1] is not None:
            sizes[-1] += last * (max(int(part[1][:9]), int((part[2] or "0")[:9])) - 1)
        elif part[0] == "(":
            sizes.append(0)
        elif part[0] == ")":
            last = sizes.pop() if len(sizes) > 1 else 0
            sizes = sizes or [0]
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
        if sizes[-1] > limit:
            raise InvalidRequestError(f"{name}: too large with its repetitions written out")


def _check_brackets(name: str, text: str) -> None:
    """Refuse what a recursive parser would follow too deep. Escapes are not looked at: no harm is done."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > MAX_BRACKETS:
                raise InvalidRequestError(f"{name}: more than {MAX_BRACKETS} brackets inside one another")
        elif character in ")]}":
            depth = max(0, depth - 1)
