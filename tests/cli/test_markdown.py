"""Streamed Markdown: nothing is lost, whatever the pieces; markers become styles."""

from __future__ import annotations

import random
import re

import pytest

from gemlet.cli.markdown import BOLD, CYAN, DIM, ITALIC, RESET, MarkdownStream

TEXT = """# Title

Some **bold words**, *italic*, `code **not bold**` and 2 * 3 * 4, an unclosed **mark
and `tick. snake_case_name stays.

- first item with **bold**
* second
12. numbered
> quoted

```python
x = "**not bold**"  # a comment that is very long and must never be wrapped by the writer at all
    indented = `y`
``
```
---
日本語のとても長い文章は空白がないので、どこでも折り返せる必要があります。終わり。
"""


def render(text: str, *, width: int = 40, sizes: random.Random | None = None) -> str:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=width)
    position = 0
    while position < len(text):
        size = len(text) if sizes is None else sizes.randint(1, 7)
        stream.push(text[position : position + size])
        position += size
    stream.finish()
    return "".join(written)


def visible(rendered: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", rendered)


def test_pieces_of_any_size_give_the_same_screen() -> None:
    whole = visible(render(TEXT))
    for seed in range(50):
        assert visible(render(TEXT, sizes=random.Random(seed))) == whole


def test_no_word_is_lost() -> None:
    def letters(text: str) -> str:
        return re.sub(r"[\s*`•│>-]", "", text)

    assert letters(visible(render(TEXT))) == letters(TEXT)


def test_unclosed_marks_stay_literal() -> None:
    assert visible(render("2 ** 3 and a **b\n`c\n5 * 4")) == "2 ** 3 and a **b\n`c\n5 * 4"


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("a **b c** d", f"a {BOLD}b{RESET}{BOLD} {RESET}{BOLD}c{RESET} d"),
        ("*i*", f"{ITALIC}i{RESET}"),
        ("`x_y`", f"{CYAN}x_y{RESET}"),
        ("**`x`**", f"{CYAN}x{RESET}"),
        ("- item", "• item"),
        ("```py\nz\n```", f"{DIM}```py{RESET}\n{CYAN}z{RESET}\n{DIM}```{RESET}"),
    ],
)
def test_styles(markdown: str, expected: str) -> None:
    assert _without_splits(render(markdown)) == _without_splits(expected)


def _without_splits(text: str) -> str:
    """Neighbouring characters of one style may be written apart."""
    for code in (BOLD, DIM, ITALIC, CYAN):
        text = text.replace(RESET + code, "")
    return text


def test_lines_break_between_words_and_items_stay_indented() -> None:
    lines = visible(render("- " + "word " * 12, width=20)).split("\n")
    assert len(lines) > 2
    assert all(len(line) <= 20 for line in lines)
    assert all(line.startswith("  word") for line in lines[1:])


def test_code_is_never_broken() -> None:
    line = "x = " + "y " * 40
    assert line in visible(render(f"```\n{line}\n```\n", width=20))


def test_wide_characters_break_anywhere() -> None:
    lines = visible(render("日" * 25, width=20)).split("\n")
    assert [len(line) for line in lines] == [10, 10, 5]


def test_plain_words_are_shown_before_the_line_ends() -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=80)
    stream.push("The sky is blue bec")
    assert "".join(written) == "The sky is blue "


def test_without_colour_there_is_no_colour() -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=80, colour=False)
    stream.push("`a`\n```\nb\n```\n")
    stream.finish()
    assert CYAN not in "".join(written)
