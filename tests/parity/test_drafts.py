"""Drafts on the real model: an answer that repeats its prompt, and one that does not, are the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gemlet.infer.engine import Engine
from gemlet.infer.requests import AnswerRequest, Token
from gemlet.infer.speculate import AdaptiveSpeculator
from gemlet.model.decoder import Decoder
from gemlet.types import Sampling
from tests.infer.naive import Running
from tests.parity.real import Real

TOKENS = 60


class Untimed(AdaptiveSpeculator):
    """Knows nothing of the cost of guesses, so that every likely one is checked, however slow the machine."""

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        pass


@pytest.fixture(scope="module")
def engines(real: Real) -> Iterator[tuple[Engine, Engine]]:
    speculators = Untimed(), None
    made = [Engine(Decoder(real.config, real.weights, threads=1), speculator=s) for s in speculators]
    yield made[0], made[1]
    for engine in made:
        engine.close()


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.0), Sampling(top_k=64, top_p=0.95, repetition_penalty=1.1)]
)
def test_real_answers(real: Real, engines: tuple[Engine, Engine], sampling: Sampling) -> None:
    text = real.ids("prose", 200)
    for ids in (text, [*text, *text[1:120]]):  # the second prompt has begun to repeat itself
        request = AnswerRequest(tuple(ids), TOKENS, sampling, seed=4, logprobs=3)
        drafted, plain = (Running.submit(engine, request) for engine in engines)
        last = None
        while not drafted.finished:
            event = drafted.take()
            last = event if isinstance(event, Token) else last
        assert drafted.tokens == plain.wait().tokens
    assert last is not None and last.drafted > 0
