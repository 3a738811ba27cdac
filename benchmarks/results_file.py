"""Where the scripts beside this one write their results: one JSON file with what is needed to repeat them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from gemlet.evaluate.record import provenance

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(
    benchmark: str,
    rows: list[dict[str, Any]],
    *,
    models: Iterable[Path],
    packages: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write benchmarks/results/BENCHMARK-TIME.json and return its path. `rows` become the table's lines."""
    result = {**provenance(benchmark, models, packages), "settings": dict(settings or {}), "rows": rows}
    path = RESULTS / f"{benchmark}-{datetime.fromisoformat(result['date']):%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
