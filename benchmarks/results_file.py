"""How every benchmark writes its result: one JSON file with what is needed to judge and repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gemlet.machine import describe
from gemlet.version import __version__

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of repeated measurements."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def sha256(path: Path) -> str:
    """Hash of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def commit() -> str:
    """The commit measured, marked where tracked files differ from it."""
    changes = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("-dirty" if changes else "")


def git(*arguments: str) -> str:
    """What git says about this repository."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version(), "gemlet": __version__}
    for package in ("numpy", *packages):
        found[package] = importlib.metadata.version(package)
    return found


def write_result(
    benchmark: str,
    rows: list[dict[str, Any]],
    *,
    models: Iterable[Path],
    packages: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write benchmarks/results/BENCHMARK-TIME.json and return its path. `rows` become the table's lines."""
    now = datetime.now(timezone.utc)
    result = {
        "benchmark": benchmark,
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": describe(),
        "versions": versions(packages),
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in models},
        "settings": dict(settings or {}),
        "rows": rows,
    }
    path = RESULTS / f"{benchmark}-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
