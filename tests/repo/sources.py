"""The project's own files, for the tests that read them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "gemlet"


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(ROOT / name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file())


def files(*suffixes: str, under: str = "") -> list[Path]:
    """The project's files in a folder with one of these suffixes, or all of them."""
    return [
        path
        for path in project_files()
        if path.is_relative_to(ROOT / under) and (not suffixes or path.suffix in suffixes)
    ]


def name(path: Path) -> str:
    """How a test's message calls a file."""
    return path.relative_to(ROOT).as_posix()
