"""Twenty seconds of the soak, and that it would notice what it is there for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gemlet.infer.requests import AnswerRequest, Cancelled, Outputs, Token
from gemlet.model.decoder import Decoder
from gemlet.ops.batch import Batch, StepOutput
from gemlet.types import Sampling
from tests.soak.soak import Report, Running, results, soak
from tests.synthetic import tiny_config, write_tiny_gguf

SECONDS = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(context_length=1024), np.random.default_rng(0), "Q4_0")
    return path


def test_random_requests_for_a_while(model: Path) -> None:
    report = soak(model, SECONDS, context=512)
    print(report.line())
    # So few even where many tests share a processor.
    assert report.requests > 50 and report.compared > 5 and report.cancelled > 0 and report.tokens > 500


def test_bits_that_depend_on_neighbours_are_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Decoder.step

    def leaning(self: Decoder, batch: Batch) -> StepOutput:
        output = step(self, batch)
        if len(batch.states) > 1 and len(output.logits):
            output.logits[0] *= np.float32(1.001)
        return output

    monkeypatch.setattr(Decoder, "step", leaning)
    with pytest.raises(AssertionError, match="another result than alone"):
        soak(model, SECONDS, context=256)


def test_growth_is_of_the_last_third() -> None:
    flat = Report(resident=[(float(t), 100 + (t % 7)) for t in range(1, 91)])
    assert flat.growth() == 0
    leaking = Report(resident=[(float(t), 100 + 5 * t) for t in range(1, 91)])
    assert leaking.growth() == 5 * 31


def test_what_is_open_and_what_came() -> None:
    one = Running(AnswerRequest((5,), 2, Sampling(), seed=0, n=2))
    assert one.open == 2
    one.events += [Token(0.0, 0, 7, finish="stop"), Token(0.1, 1, 8)]
    assert one.open == 1 and results(one) == {0: [(7, None, (), "stop")], 1: [(8, None, (), None)]}
    one.events.append(Cancelled(1))
    assert one.open == 0
    row = np.array([[1.0, -0.0]], np.float32)
    zero = Running(one.request, events=[Outputs(row, row, (), ())])
    other = Running(one.request, events=[Outputs(np.abs(row), row, (), ())])
    assert zero.open == 0 and results(zero) != results(other)  # minus zero is another bit
