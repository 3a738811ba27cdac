"""Patterns of JSON schemas, in the form in which the grammar compiler keeps to them.

Inside a JSON string it takes a class of all control characters, with or without the line feed, for one that
holds the quotation mark and the backslash too. So no class may hold all of them: a negated one is made to
leave U+0001 out, which no answer holds anyway (`spelling`), and other ways to write such a class are refused.
"""

from __future__ import annotations

import re

_PART = re.compile(
    r"""(?P<escaped>\\(?:[pP](?:\{[^}]*\}|.)|x\{[^}]*\}|u\{[^}]*\}|x..|u....|U........|.))
    |(?P<named>\[:\^?\w+:\])|(?P<negated>\[\^)|(?P<open>\[)|(?P<close>\])|(?P<operation>&&|--|~~)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CONTROLS = re.compile(r"P|p\{\^|p.*!=|p\{?(?:gc[=:]|generalcategory[=:])?(?i:c|cc|other|control|cntrl)\}?$")
_NUL = re.compile(r"\\[xuU]\{?0+\}?")


def enforced(pattern: str) -> str:
    """The pattern with every negated class without U+0001. ValueError that says what is not supported."""
    parts = []
    inside = ""  # how the class began that is open
    for part in _PART.finditer(pattern):
        text, kind = part[0], part.lastgroup
        if kind in ("open", "negated"):
            if inside:
                raise ValueError("classes inside one another")
            if pattern[part.end() : part.end() + 1] == "]":
                raise ValueError("a class that begins with ]; write \\]")
            inside = text
            text += "\\x01" if kind == "negated" else ""
        elif kind == "close":
            inside = ""
        elif kind == "operation" and inside:
            raise ValueError(f"{text} in a class")
        elif kind == "named" and (not inside or "^" in text or "cntrl" in text):
            raise ValueError(text)
        elif inside == "[" and (text == "\0" or _NUL.fullmatch(text)):
            raise ValueError("a range from U+0000")
        if kind == "escaped" and _CONTROLS.match(re.sub(r"[\s_-]", "", text[1:])):
            raise ValueError(text)
        parts.append(text)
    return "".join(parts)
