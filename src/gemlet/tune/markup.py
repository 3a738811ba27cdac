"""HTML and SVG as text in which everything is escaped that is not markup already."""

from __future__ import annotations

import re
from html import escape

_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""What HTML has no character for."""

_VOID = {"meta", "link", "br"}


class Markup(str):
    """Text that is markup. Only `tag` and `joined` make it, and literals."""

    __slots__ = ()


Child = str | int | float | None


def text(value: Child) -> Markup:
    """Anything as text that stays text."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else escape(_CONTROL.sub("\ufffd", str(value))))


def tag(name: str, /, *children: Child, **attributes: Child) -> Markup:
    """An element. Attributes without a value are left out; `class_` is class, a_b is a-b."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after another."""
    return Markup("".join(map(text, children)))
