"""How the demonstrations' data lie: a folder for `gemlet tune`, and beside it what is scored, in full."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

IN_REPORT = 100
"""Test lines that the tuning's own report asks; `benchmarks.tune.score` asks more."""


def write_data(folder: Path, lines: Mapping[str, Sequence[Row]]) -> None:
    """FOLDER/{train,valid,test}.jsonl: nothing but `messages`. FOLDER-test.jsonl: all that is known."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in lines.items():
        shown = rows[:IN_REPORT] if name == "test" else rows
        write_lines(folder / f"{name}.jsonl", [{"messages": row["messages"]} for row in shown])
    write_lines(scored_path(folder), lines["test"])


def scored_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-test.jsonl")


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
