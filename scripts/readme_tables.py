"""Writes the tables of README.md and docs/ from the files under benchmarks/results/.

Usage: readme_tables.py [--check]     --check writes nothing and fails where a table differs

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. It shows the newest result of that name:
the last file, by name, of benchmarks/results/NAME-*.json. Such a file holds `rows` (a list of flat objects
with the same keys, which become the columns) beside `benchmark`, `date`, `commit` and `machine`. A measured
value is a number or `{"median": x, "low": x, "high": x}`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a table differs")
    check = parser.parse_args().check
    stale = []
    for path in documents(ROOT):
        text = path.read_text()
        filled = fill(text, ROOT / "benchmarks/results")
        if filled != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(filled)
    told = "differs from benchmarks/results; run scripts/readme_tables.py" if check else "written"
    for name in stale:
        print(f"{name}: {told}")
    return 1 if check and stale else 0


def documents(root: Path) -> Iterator[Path]:
    """The files that may hold tables."""
    yield from [path for path in [root / "README.md"] if path.is_file()]
    yield from sorted((root / "docs").rglob("*.md"))


def fill(text: str, results: Path) -> str:
    """The text with every marked table as the results say it is."""
    return TABLE.sub(lambda match: match[1] + table(match["name"], results) + match[3], text)


def table(name: str, results: Path) -> str:
    """One Markdown table and a line on where and when it was measured."""
    files = sorted(results.glob(f"{name}-[0-9]*.json"))
    if not files:
        return f"(not measured yet: `make bench` writes `benchmarks/results/{name}-*.json`)\n"
    result = json.loads(files[-1].read_text())
    rows: list[dict[str, Any]] = result["rows"]
    columns = list(rows[0])
    if any(list(row) != columns for row in rows):
        raise SystemExit(f"{files[-1].name}: rows have different keys")
    lines = [columns, ["---"] * len(columns), *([cell(row[column]) for column in columns] for row in rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machine = result["machine"]
    where = f"{machine['processor']}, {machine['physical_cores']} cores, {machine['instruction_set']}"
    commit = (result["commit"] or "unknown")[:9]
    source = f"`benchmarks/results/{files[-1].name}`"
    return f"{body}\n\nMeasured {result['date'][:10]} on {where}, commit {commit}: {source}.\n"


def cell(value: Any) -> str:
    """A value as a table shows it; a spread is written after its median."""
    if isinstance(value, dict):
        spread = f" ({cell(value['low'])} to {cell(value['high'])})" if value["low"] != value["high"] else ""
        return cell(value["median"]) + spread
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
