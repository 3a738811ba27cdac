"""The newest results of the demonstrations as Markdown tables.

python -m benchmarks.tune.table intents
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS

MEASURES = {
    "intents": ("exact", "intent", "JSON"),
    "chat": ("right", "content", "stops"),
    "lint": ("fixed", "ruff passes", "as the known fix", "parses", "unchanged"),
}


def newest(task: str, folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The last result of each candidate, by its name."""
    found: dict[str, dict[str, Any]] = {}
    for path in folder.glob(f"tune-{task}-*.json"):
        result = json.loads(path.read_text())
        result["name"] = path.name
        candidate = result["settings"]["candidate"]
        if candidate not in found or found[candidate]["date"] < result["date"]:
            found[candidate] = result
    return found


def shares(result: dict[str, Any], group: str, measures: tuple[str, ...]) -> list[str]:
    rows = {(row["group"], row["measure"]): row for row in result["rows"]}
    lines = [rows[group, measure] for measure in measures]
    return [f"{row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%})" for row in lines]


def table(task: str, folder: Path = RESULTS) -> str:
    """Candidates by measures over all questions, then the tuned model by groups of them."""
    measures, results = MEASURES[task], newest(task, folder)
    lines = [f"| | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for name, result in sorted(results.items()):
        lines.append(f"| {name} | {' | '.join(shares(result, 'all', measures))} |")
    if "tuned" in results:
        tuned = results["tuned"]
        counts = {row["group"]: row["n"] for row in tuned["rows"]}
        for group, count in counts.items():
            if group != "all":
                cells = " | ".join(shares(tuned, group, measures))
                lines.append(f"| tuned: {group} ({count}) | {cells} |")
    lines += ["", *(f"- {name}: `{result['name']}`" for name, result in sorted(results.items()))]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(MEASURES)} (all)")
    for task in parser.parse_args().tasks or MEASURES:
        print(f"## {task}\n\n{table(task)}\n")


if __name__ == "__main__":
    main()
