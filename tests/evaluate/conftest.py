"""A model small enough that measuring it takes no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import tiny_config, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=4096), np.random.default_rng(0), "Q4_0")
    return path
