"""The machine's limits: rates of a computer, refused where nothing could be measured."""

from __future__ import annotations

import dataclasses

import pytest

from gemlet.errors import ConfigError, InvalidRequestError
from gemlet.ops.limits import measure_limits


@pytest.mark.parametrize("threads", [1, 2, None])
def test_rates_are_of_a_computer(threads: int | None) -> None:
    limits = measure_limits(threads, bytes=1 << 22, seconds=0.02)
    # Wide enough for anything from a small board to a large server, narrow enough to notice a wrong unit.
    assert all(1e7 < rate < 1e15 for rate in dataclasses.astuple(limits))
    assert limits.byte_products > limits.float_products / 2  # a byte is never the dearer one by far


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"threads": 1000}, {"bytes": 10}, {"seconds": -1.0}):
        with pytest.raises(InvalidRequestError):
            measure_limits(**wrong)
    monkeypatch.setenv("GEMLET_ISA", "nothing")
    with pytest.raises(ConfigError, match="GEMLET_ISA"):
        measure_limits(bytes=1 << 22)


def test_every_instruction_set_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMLET_ISA", "portable")
    assert measure_limits(1, bytes=1 << 22, seconds=0.02).read_bytes > 1e7
