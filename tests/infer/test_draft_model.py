"""A smaller model that drafts: equal results, its state follows each cut, and it is silent where it costs."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gemlet.infer.draft_model import CHUNK, DraftModel
from gemlet.infer.engine import Engine
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.sample import choose, uniform
from gemlet.infer.scheduler import Limits
from gemlet.infer.speculate import TRY_AGAIN, AdaptiveSpeculator
from gemlet.ops.batch import Batch, StepOutput
from gemlet.types import Sampling
from tests.infer.fakes import FakeDecoder, logits_after, small_config
from tests.infer.naive import Running

WARM, GREEDY = Sampling(top_k=20, top_p=0.95), Sampling(temperature=0.0)


def answer(ids, max_tokens=30, sampling=WARM, seed=1, **more) -> AnswerRequest:
    return AnswerRequest(tuple(ids), max_tokens, sampling, seed, **more)


@dataclass
class SmallDecoder(FakeDecoder):
    """Says what the fake decoder says, except after a share of all prefixes."""

    other: float = 0.0

    def row(self, ids: tuple[int, ...]) -> np.ndarray:
        row = logits_after(ids, self.config.vocab_size)
        return np.roll(row, 1) if hash(ids) % 1000 < 1000 * self.other else row

    def step(self, batch: Batch) -> StepOutput:
        output = super().step(batch)
        ends = np.cumsum(batch.rows) - 1
        rows = [self.row(batch.states[np.searchsorted(ends, row)].ids) for row in batch.logits]
        return replace(output, logits=np.array(rows, np.float32).reshape(output.logits.shape))


class Watched(DraftModel):
    """Checks every draft against what the small decoder says of the true ids."""

    def __init__(self, decoder: SmallDecoder) -> None:
        super().__init__(decoder)
        self.small = decoder
        self.drafted = 0

    def draft(self, sequences):
        drafts = super().draft(sequences)
        for sequence, count in sequences:
            said = drafts.get(sequence.id, [])
            assert len(said) in (0, count)
            ids = tuple(sequence.ids)
            for token in said:
                u = uniform(sequence.request.seed, sequence.index, len(ids))
                assert token == choose(self.small.row(ids), sequence.request.sampling, u, self.small)
                ids = (*ids, token)
            self.drafted += len(said)
        return drafts


def paying(model: DraftModel, token_s: float = 0.001) -> AdaptiveSpeculator:
    """A speculator for which rows cost next to nothing and drafts what is said, however slow the machine."""
    model.token_seconds = lambda sequences: token_s
    speculator = AdaptiveSpeculator(model)
    speculator.measured(1, 0, 100.0)
    speculator.measured(100, 0, 100.1)
    speculator.measured = lambda rows, beside, seconds: None
    return speculator


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("other", [0.0, 0.3, 1.0])
def test_equal_to_no_drafts_and_the_state_follows(seed, other):
    rng = random.Random(seed)
    decoder = FakeDecoder(max_rows=64)
    model = Watched(SmallDecoder(max_rows=256, other=other))
    engine = Engine(
        decoder, limits=Limits(64, sequences=rng.choice([1, 8])), shortest_prefix=2, speculator=paying(model)
    )
    running = []
    for _ in range(8):
        ids = [2, *(rng.randrange(40) for _ in range(rng.randint(0, 60)))]
        sampling = rng.choice([WARM, GREEDY, Sampling(top_k=9, repetition_penalty=1.3)])
        n = rng.choice([1, 3])
        running.append(Running.submit(engine, answer(ids, 40, sampling, rng.randint(0, 3), n=n, logprobs=2)))
        if rng.random() < 0.2:
            running[-1].ticket.cancel(0)
    for one in running:
        one.wait().check(decoder)
    engine.close()
    assert model.drafted > 50
    assert model.small.closed
    assert not model._followers


def test_one_that_thinks_alike_is_always_right():
    """Sampled tokens too: both draw with the same number."""
    decoder = FakeDecoder(max_rows=64)
    engine = Engine(decoder, speculator=paying(Watched(SmallDecoder(max_rows=256))))
    events = []
    running = Running.submit(engine, answer(range(2, 12), 100))
    while not running.finished:
        events.append(running.take())
    engine.close()
    assert events[-1].drafted == events[-1].accepted > 50
    assert len(decoder.steps) < 25


def test_a_long_prompt_is_read_in_chunks_beside_the_answer():
    decoder = FakeDecoder(small_config(context_length=2000), max_rows=256)
    small = SmallDecoder(small_config(context_length=2000), max_rows=256)
    engine = Engine(decoder, speculator=paying(Watched(small)))
    ids = [2 + i * i % 37 for i in range(1000)]
    Running.submit(engine, answer(ids, 40)).wait().check(decoder)
    engine.close()
    rows = [rows for step in small.steps for rows in step]
    assert max(rows) <= CHUNK
    assert sum(rows) >= 1000


def test_where_the_small_model_has_no_room_it_is_not_asked():
    decoder, small = FakeDecoder(max_rows=64), SmallDecoder(small_config(context_length=30))
    engine = Engine(decoder, speculator=paying(Watched(small)))
    Running.submit(engine, answer(range(2, 12), 40)).wait().check(decoder)
    engine.close()
    assert small.steps == []


def test_a_small_model_that_fails_costs_no_answer():
    decoder, small = FakeDecoder(max_rows=64), SmallDecoder(max_rows=256)

    def fail(batch):
        if len(small.steps) == 5:
            raise MemoryError

    small.fail = fail
    engine = Engine(decoder, speculator=paying(DraftModel(small)))
    Running.submit(engine, answer(range(2, 12), 60)).wait().check(decoder)
    engine.close()
    assert len(small.steps) == 5


def test_one_that_is_slow_is_hardly_asked():
    decoder, small = FakeDecoder(max_rows=64), SmallDecoder(max_rows=256)
    model = Watched(small)
    engine = Engine(decoder, speculator=paying(model, token_s=1000.0))
    Running.submit(engine, answer([2, 3], 200)).wait().check(decoder)
    engine.close()
    # Two tokens every 64 steps, and what had to be read before them.
    assert 0 < model.drafted <= 2 * (1 + len(decoder.steps) // TRY_AGAIN)


def test_its_memory_is_part_of_the_price():
    decoder, small = FakeDecoder(), SmallDecoder()
    limits = Limits(32, sequences=8, bytes=40 * 16)
    engine = Engine(decoder, limits=limits, speculator=AdaptiveSpeculator(DraftModel(small)))
    with pytest.raises(Exception, match="bytes of memory"):
        Running.submit(engine, answer([2, 3], 20))
    Running.submit(engine, answer([2, 3], 18)).wait().check(decoder)
    engine.close()
