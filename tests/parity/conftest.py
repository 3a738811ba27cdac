"""What the parity tests share: loading the real model and its oracle takes seconds, so it is done once."""

from __future__ import annotations

import pytest

from gemlet.store.settings import cache_dir
from tests.parity.oracle import Oracle
from tests.parity.real import Real


@pytest.fixture(scope="session")
def real(own_home: None) -> Real:
    return Real(cache_dir())


@pytest.fixture(scope="session")
def real_oracle(real: Real) -> Oracle:
    return Oracle.of_gguf(real.path)
