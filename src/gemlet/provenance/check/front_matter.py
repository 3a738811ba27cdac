"""The front matter of a model card: the small part of YAML that cards use, read strictly."""

from __future__ import annotations

import re
from typing import Any

from gemlet.errors import GemletError

MAX_LINES = 1 << 12
MAX_DEPTH = 12
_KEY = re.compile(r"(?P<key>[A-Za-z0-9_][\w .()/+-]*|\"[^\"]+\"|'[^']+'):(?:\s+(?P<rest>.*))?$")


class FrontMatterError(GemletError):
    """Front matter that is not of the part of YAML that is read here. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"README.md, line {line}: {problem}")
        self.line = line


def split_card(text: str) -> tuple[list[str], str]:
    """The lines of the front matter (none without one), and the text behind it."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return [], text
    for number, line in enumerate(lines[1:], 1):
        if line.strip() == "---":
            return lines[1:number], "\n".join(lines[number + 1 :])
    return [], text


def read_front_matter(text: str) -> dict[str, Any]:
    """The fields of a card. Raises FrontMatterError naming the line."""
    lines, _ = split_card(text)
    if len(lines) > MAX_LINES:
        raise FrontMatterError(MAX_LINES, "the front matter is too long")
    reader = _Reader(lines)
    value = reader.block(0, 0)
    if reader.at < len(lines):
        reader.fail("is indented in a way that means nothing")
    return value if isinstance(value, dict) else {}


class _Reader:
    """A cursor over lines; a block is what has the same indentation."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0

    def fail(self, problem: str) -> FrontMatterError:
        raise FrontMatterError(self.at + 2, problem)  # line 1 is the ---

    def skip(self) -> None:
        while self.at < len(self.lines) and re.match(r"\s*(#.*)?$", self.lines[self.at]):
            self.at += 1

    def indent(self) -> int:
        """Of the next line that says something; -1 at the end."""
        self.skip()
        if self.at >= len(self.lines):
            return -1
        line = self.lines[self.at]
        if "\t" in line[: len(line) - len(line.lstrip())]:
            self.fail("is indented with a tab")
        return len(line) - len(line.lstrip())

    def block(self, least: int, depth: int) -> Any:
        """A list or mapping whose lines are indented by at least that much; None if there is none."""
        if depth > MAX_DEPTH:
            self.fail("is nested too deeply")
        indent = self.indent()
        if indent < least:
            return None
        is_list = re.match(r"-(\s|$)", self.lines[self.at].lstrip())
        return self.list(indent, depth) if is_list else self.mapping(indent, depth)

    def list(self, indent: int, depth: int) -> list[Any]:
        items = []
        while self.indent() == indent and (match := re.match(r"(\s*-\s*)(.*)", self.lines[self.at])):
            rest = match[2]
            if not rest or rest.startswith("#"):
                self.at += 1
                items.append(self.block(indent + 1, depth + 1))
            elif _KEY.match(rest) and not rest.startswith(("http:", "https:")):
                self.lines[self.at] = " " * len(match[1]) + rest
                items.append(self.mapping(len(match[1]), depth + 1))
            else:
                self.at += 1
                items.append(self.scalar(rest))
        return items

    def mapping(self, indent: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while self.indent() == indent:
            match = _KEY.match(self.lines[self.at].strip())
            if match is None:
                self.fail("is not KEY: VALUE")
            assert match is not None
            key, rest = match["key"].strip("\"'"), match["rest"] or ""
            if key in result:
                self.fail(f"{key} appears twice")
            self.at += 1
            if not rest or rest.startswith("#"):
                lists = self.indent() == indent and re.match(r"\s*-(\s|$)", self.lines[self.at])
                result[key] = self.block(indent if lists else indent + 1, depth + 1)
            elif re.fullmatch(r"[|>][+-]?", rest.strip()):
                result[key] = self.text(indent, rest.startswith(">"))
            else:
                result[key] = self.scalar(rest)
        return result

    def text(self, indent: int, folded: bool) -> str:
        """A block of text: everything that is indented more."""
        lines = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                break
            lines.append(line.strip())
            self.at += 1
        return (" " if folded else "\n").join(lines).strip()

    def scalar(self, text: str) -> Any:
        text = text.strip()
        if text[:1] in "\"'":
            end = text.find(text[0], 1)
            if end < 0:
                self.fail("has a quote without its end")
            return text[1:end]
        text = re.split(r"\s#", text)[0].strip()
        if text.startswith("["):
            if not text.endswith("]"):
                self.fail("has a list without its end")
            return [self.scalar(item) for item in text[1:-1].split(",") if item.strip()]
        if text[:1] in "{&*!%@`":
            self.fail(f"begins with {text[0]}, which is not read here")
        if text in ("true", "false"):
            return text == "true"
        if re.fullmatch(r"-?\d{1,18}", text):
            return int(text)
        if re.fullmatch(r"-?\d{1,18}\.\d{1,18}", text):
            return float(text)
        return None if text in ("null", "~", "") else text
