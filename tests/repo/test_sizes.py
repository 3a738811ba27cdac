"""A size budget: what grows past it is usually two things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.repo.sources import files, name

FILE_LINES = 400
FUNCTION_LINES = 60


def long_functions(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{lines} lines: {name(path)}:{node.lineno} {node.name}"


def test_files_are_short() -> None:
    sources = [*files(".py"), *files(".cc", ".h", ".inl", ".sh")]
    sizes = [(len(path.read_text().splitlines()), name(path)) for path in sources]
    offenders = [
        f"{lines} lines: {file}" for lines, file in sorted(sizes, reverse=True) if lines > FILE_LINES
    ]
    assert not offenders, "\n".join(offenders)


def test_functions_are_short() -> None:
    offenders = [text for path in files(".py") for text in long_functions(path, path.read_text())]
    assert not offenders, "\n".join(offenders)


def test_a_long_function_is_found() -> None:
    source = "def f():\n" + "    pass\n" * FUNCTION_LINES
    assert len(list(long_functions(Path(__file__), source))) == 1
    assert not list(long_functions(Path(__file__), source.removesuffix("    pass\n")))
