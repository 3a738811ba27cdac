"""What ruff finds in many snippets at once, and whether two are the same code. Nothing is executed."""

from __future__ import annotations

import ast
import builtins
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NEW = re.compile(r"(E4|E7|E9|F)\d+|invalid-syntax")
"""Ruff's own default rules: what a fix must not bring in."""


@dataclass(frozen=True)
class Finding:
    code: str
    message: str
    line: int


def findings(snippets: Sequence[str], suffix: str = ".py") -> list[list[Finding]]:
    """What ruff finds in each snippet, which lies alone in a file."""
    with tempfile.TemporaryDirectory() as folder:
        for index, snippet in enumerate(snippets):
            Path(folder, f"snippet_{index}{suffix}").write_text(snippet.rstrip() + "\n", encoding="utf-8")
        options = ["--isolated", "--no-cache", "--preview", "--select", "ALL", "--output-format", "json"]
        command = [sys.executable, "-m", "ruff", "check", "--target-version", "py313", *options, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff: {done.stderr.strip()}")
    found: list[list[Finding]] = [[] for _ in snippets]
    for one in json.loads(done.stdout):
        index = int(Path(one["filename"]).stem.removeprefix("snippet_"))
        line = (one.get("location") or {}).get("row", 1)
        found[index].append(Finding(one["code"] or "invalid-syntax", one["message"], line))
    return found


def passes(code: str, before: Sequence[Finding], after: Sequence[Finding]) -> bool:
    """Whether ruff no longer finds the rule, and nothing of its default rules that was not there before."""
    known = {one.code for one in before}
    return not any(one.code == code or (NEW.fullmatch(one.code) and one.code not in known) for one in after)


def parses(snippet: str) -> bool:
    """Whether it is Python 3.10: later syntax would make the data depend on the Python that makes them."""
    try:
        ast.parse(snippet, feature_version=(3, 10))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def same_code(first: str, second: str) -> bool:
    """Whether both parse to the same tree, but for comments, layout and the names that they themselves bind.

    Their own names need only differ consistently: `for x in xs: f(x)` is `for y in xs: f(y)`.
    """
    if not parses(first) or not parses(second):
        return False
    return _shape(first) == _shape(second)


def _shape(snippet: str) -> str:
    tree = ast.parse(snippet)
    own = bound_names(tree)
    numbers: dict[str, str] = {}
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, str) and value in own and field in ("id", "arg", "name"):
                setattr(node, field, numbers.setdefault(value, f"own {len(numbers)}"))
    return ast.dump(tree)


def bound_names(tree: ast.AST) -> set[str]:
    """Names that the code itself gives to variables, arguments, functions and classes; no imports."""
    named = keywords_of(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
    return {name for name in found - named if not hasattr(builtins, name) and not name.startswith("__")}


def keywords_of(tree: ast.AST) -> set[str]:
    """Names of keyword arguments, attributes and imports: others than this code know them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= set(node.name.split(".")) | ({node.asname} if node.asname else set())
    return found
