"""What the parity tests share: loading the real model and its oracle takes seconds, so it is done once."""

from __future__ import annotations

import pytest

from tests.parity.oracle import Oracle
from tests.parity.real import Real


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(tmp_path_factory.mktemp("gemma-3-270m"))


@pytest.fixture(scope="session")
def real_oracle(real: Real) -> Oracle:
    return Oracle.of_gguf(real.path)
