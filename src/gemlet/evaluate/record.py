"""What every measurement is kept with: enough to judge it and to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gemlet.machine import describe
from gemlet.version import __version__

_PACKAGE = Path(__file__).resolve().parent.parent


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of repeated measurements."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def provenance(benchmark: str, models: Iterable[Path], packages: Iterable[str] = ()) -> dict[str, Any]:
    """The head of a result: what was measured, when, on which machine, versions, commit and files."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": describe(),
        "versions": versions(packages),
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in models},
    }


def sha256(path: Path) -> str:
    """Hash of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def commit() -> str | None:
    """The commit measured, marked where tracked files differ from it; None for an installed package."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")) / "src/gemlet" != _PACKAGE:
            return None  # a repository around the environment that gemlet is installed in
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=_PACKAGE, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version(), "gemlet": __version__}
    for package in ("numpy", *packages):
        found[package] = importlib.metadata.version(package)
    return found
