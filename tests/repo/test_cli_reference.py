"""docs/reference/cli.md says what the parsers say."""

from __future__ import annotations

import subprocess
import sys

from tests.repo.sources import ROOT


def test_the_command_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/cli_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
