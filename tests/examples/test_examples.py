"""Every example is short, runs from the command line, and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.repo.sources import ROOT
from tests.synthetic import tiny_config, write_tiny_gguf

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTS = {
    "call_a_tool.py": r"> How many boxes .*\n(get_stock\(\{\"fruit\":\"\w+\"\}\) = \d+\n|.*\n)*",
    "stream_chat.py": r"> What is a prime number\?\n(.|\n)*\[\d+ tokens in, \d+ of them from the cache\]\n",
    "classify.py": r"( *\d+% (positive|negative): .+\n){3}",
    "certainty.py": r"The days of the week(.|\n)*( *\d+% '.*\n)+",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(7))
    return path


def test_examples_are_all_known_and_short() -> None:
    assert {path.name for path in EXAMPLES} == set(PRINTS)
    assert all(len(path.read_text().splitlines()) <= 40 for path in EXAMPLES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "GEMLET_MODEL": str(tiny)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTS[path.name], done.stdout), done.stdout
