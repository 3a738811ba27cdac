"""Files that scripts write: written, or compared with what they would be."""

from __future__ import annotations

import argparse
from pathlib import Path


def write_or_check(description: str | None, target: Path, text: str, script: str) -> int:
    """Writes the file, or with `--check` on the command line only compares it. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the file differs")
    check = parser.parse_args().check
    if target.is_file() and target.read_text() == text:
        return 0
    if check:
        print(f"{'/'.join(target.parts[-3:])} differs from its source; run {script}")
        return 1
    target.write_text(text)
    return 0
