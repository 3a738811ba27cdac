"""docs/reference says what the parsers and the server's schemas say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.repo.sources import ROOT


@pytest.mark.parametrize("script", ["cli_reference.py", "api_reference.py"])
def test_the_reference_is_current(script: str) -> None:
    done = subprocess.run(
        [sys.executable, f"scripts/{script}", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
