"""A short run of the fuzz program; `make fuzz` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import fuzz_model_files as fuzz

CASES = 3_000


def test_damaged_files_raise_typed_errors_only() -> None:
    """In a process of its own: the limit on memory is on the whole process."""
    command = [sys.executable, str(Path(fuzz.__file__)), "--count", str(CASES), "--seed", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"{CASES} cases" in run.stdout
    for target in ("gguf", "safetensors", "config.json", "packed", "adapter", "adapter_config.json"):
        assert f"{target}: " in run.stdout
    assert "gguf: loaded" in run.stdout and "gguf: ModelFileError" in run.stdout  # both sides are reached
    assert "adapter: loaded" in run.stdout and "adapter: ModelFileError" in run.stdout


def test_an_error_of_another_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program must fail on a fault, and say which case it was."""
    outcome, calls = fuzz.outcome, []

    def faulty(target: fuzz.Target) -> str:
        calls.append(target)
        if len(calls) > 20:
            raise IndexError("a check that is missing")
        return outcome(target)

    monkeypatch.setattr(fuzz, "outcome", faulty)
    with pytest.raises(IndexError, match="missing"):
        fuzz.run(count=100, seed=0)
