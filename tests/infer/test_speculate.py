"""Drafts change no result: not right ones, not wrong ones, whatever ends inside them. And they are dropped
where they do not pay."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gemlet.infer.engine import Engine
from gemlet.infer.requests import AnswerRequest, Token
from gemlet.infer.scheduler import Limits
from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.speculate import MOST, AdaptiveSpeculator
from gemlet.types import Sampling
from tests.infer.drafters import KnowingSpeculator, random_speculator
from tests.infer.fake_model import fake_decoder, fake_model
from tests.infer.fakes import STOP, FakeDecoder
from tests.infer.naive import Running, naive_answer

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(top_k=20, top_p=0.95)
PENALISED = Sampling(
    top_k=10,
    repetition_penalty=1.4,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    logit_bias={7: 3.0, 9: -5.0},
)
SAMPLINGS = (GREEDY, WARM, PENALISED, Sampling(min_p=0.1), Sampling(temperature=0.0, frequency_penalty=0.7))


class Truth:
    """The answers of a fake decoder, computed once."""

    def __init__(self, decoder: FakeDecoder) -> None:
        self._decoder = decoder
        self._known: dict[tuple[AnswerRequest, int], list[int]] = {}

    def __call__(self, sequence: AnswerSequence) -> list[int]:
        key = id(sequence.request), sequence.index
        if key not in self._known:
            answer = naive_answer(self._decoder, sequence.request, sequence.index)
            self._known[key] = [token for token, *_ in answer]
        return self._known[key]


def answer(ids, max_tokens=20, sampling=WARM, seed=1, stop_ids=frozenset({STOP}), **more) -> AnswerRequest:
    return AnswerRequest(tuple(ids), max_tokens, sampling, seed, stop_ids=stop_ids, **more)


def always(truth, count, right) -> KnowingSpeculator:
    return KnowingSpeculator(truth, lambda: count, lambda: right)


def run(decoder, speculator, *requests, **options) -> list[Running]:
    engine = Engine(decoder, speculator=speculator, **options)
    try:
        running = [Running.submit(engine, request) for request in requests]
        return [one.wait() for one in running]
    finally:
        engine.close()


@pytest.mark.parametrize("seed", range(16))
def test_equal_to_no_drafts(seed):
    """Random requests, samplings, choices, chunks, drafts and cancellations."""
    rng = random.Random(seed)
    decoder = FakeDecoder(max_rows=rng.choice([8, 24, 64]), stop_bias=rng.choice([-1.0, 2.0]))
    speculator = random_speculator(Truth(decoder), rng)
    limits = Limits(decoder.max_rows, rng.choice([1, 8]), rng.choice([1, 3, 7]))
    engine = Engine(decoder, limits=limits, shortest_prefix=2, speculator=speculator)
    done: list[Running] = []
    for _ in range(6):
        batch = []
        for _ in range(rng.randint(1, 8)):
            ids = [2, *(rng.randrange(40) for _ in range(rng.randint(0, 40)))]
            if done and rng.random() < 0.6:  # continue, or branch off, something seen before
                before = rng.choice(done)
                said = [token for token, *_ in before.tokens.get(0, [])]
                ids = [*before.request.ids, *said][: rng.randint(1, 80)] + ids[1:]
            request = answer(
                ids[:100], rng.randint(1, 40), rng.choice(SAMPLINGS), rng.randint(0, 5),
                n=rng.choice([1, 1, 2, 5]), logprobs=rng.choice([None, 0, 3]),
            )  # fmt: skip
            batch.append(Running.submit(engine, request))
        for running in batch:
            if rng.random() < 0.2:
                for _ in range(rng.randint(0, 6)):
                    if not running.finished:
                        running.take()
                running.ticket.cancel(rng.choice([None, 0]))
        done += [running.wait() for running in batch]
    for running in done:
        running.check(decoder)
    assert engine.counts() == (0, 0)
    engine.close()
    assert speculator.closed
    assert speculator.drafted > 100
    assert all(len(rows) and sum(rows) <= decoder.max_rows for rows in decoder.steps)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_right_drafts_save_steps(sampling):
    decoder = FakeDecoder(max_rows=64)
    request = answer(range(2, 12), 52, sampling, stop_ids=frozenset(), logprobs=2)
    (running,) = run(decoder, always(Truth(decoder), MOST, MOST), request)
    running.check(decoder)
    # The first token comes from the prompt; then steps of 16 guesses and the token behind them.
    assert decoder.steps == [(10,), (17,), (17,), (17,)]


def test_wrong_drafts_cost_no_step():
    decoder = FakeDecoder(max_rows=64)
    request = answer(range(2, 12), 20, stop_ids=frozenset())
    (running,) = run(decoder, always(Truth(decoder), MOST, 0), request)
    running.check(decoder)
    # Towards the end the draft is as long as what may still come, less the token behind it.
    assert decoder.steps == [(10,), (17,), (17,), (17,), *((rows,) for rows in range(16, 0, -1))]


@pytest.mark.parametrize("right", range(6))
def test_wrong_after_some(right):
    decoder = FakeDecoder(max_rows=64)
    request = answer(range(2, 12), 31, PENALISED, stop_ids=frozenset(), logprobs=3)
    (running,) = run(decoder, always(Truth(decoder), 6, right), request)
    running.check(decoder)
    assert len(decoder.steps) == 1 + -(-30 // (right + 1))


def test_neither_max_tokens_nor_context_is_passed():
    lengths = []

    def note(batch):
        lengths.extend(s.length + n for s, n in zip(batch.states, batch.rows, strict=True))

    for max_tokens in range(1, 40):
        decoder = FakeDecoder(max_rows=64)
        decoder.fail = note
        request = answer(range(2, 12), max_tokens, stop_ids=frozenset())
        speculator = always(Truth(decoder), 100, 100)
        (running,) = run(decoder, speculator, request, context=10 + max_tokens)
        running.check(decoder)
        assert max(lengths) <= 9 + max_tokens  # the last token is never read
        lengths.clear()


def test_a_stop_id_inside_an_accepted_draft():
    stopped = 0
    for seed in range(30):
        decoder = FakeDecoder(max_rows=64)
        endless = answer(range(2, 12), 20, seed=seed, stop_ids=frozenset())
        tokens = [token for token, *_ in naive_answer(decoder, endless, 0)]
        request = replace(endless, stop_ids=frozenset({tokens[9]}))
        engine = Engine(decoder, shortest_prefix=2, speculator=always(lambda s, t=tokens: t, 12, 12))
        running = Running.submit(engine, request).wait()
        running.check(decoder)
        stopped += len(running.tokens[0]) == 10
        # What was read beyond the stop is in no state that a later prompt finds.
        ids = [*request.ids, *tokens[:4], 39, 38]
        Running.submit(engine, answer(ids, 5)).wait().check(decoder)
        engine.close()
    assert stopped > 15  # in the others the stop id came before


def test_a_stop_string_inside_an_accepted_draft():
    plain, decoder = fake_model(), fake_decoder()
    with plain:
        whole = plain.generate("ab", max_tokens=30, seed=3, ignore_eos=True)
        stop = whole.text[len(whole.text) // 2 :][:3]
        expected = plain.generate("ab", max_tokens=30, seed=3, ignore_eos=True, stop=stop)
    speculator = always(lambda sequence: whole.token_ids, 12, 12)
    with fake_model(decoder, speculator=speculator) as model:
        got = model.generate("ab", max_tokens=30, seed=3, ignore_eos=True, stop=stop)
    assert (got.text, got.token_ids, got.stop_reason) == (expected.text, expected.token_ids, stop)
    assert speculator.drafted


def test_cancelled_while_a_draft_is_checked():
    decoder = FakeDecoder(max_rows=64, delay=0.002)
    engine = Engine(decoder, speculator=always(Truth(decoder), 4, 4))
    running = Running.submit(engine, answer(range(2, 12), 200, stop_ids=frozenset(), n=2))
    while not isinstance(running.take(), Token):
        pass
    running.ticket.cancel(1)
    running.take()
    running.ticket.cancel()
    running.wait().check(decoder)
    assert set(running.ended.values()) == {"cancelled"}
    assert engine.counts() == (0, 0)
    Running.submit(engine, answer(range(2, 14), 20)).wait().check(decoder)
    engine.close()


def test_a_receiver_that_goes_away_inside_a_draft():
    decoder = FakeDecoder(max_rows=64)
    engine = Engine(decoder, speculator=always(Truth(decoder), 8, 8))
    seen = []

    def sink(event):
        seen.append(event)
        if len(seen) == 5:
            raise RuntimeError("Event loop is closed")

    engine.submit(answer(range(2, 12), 40, stop_ids=frozenset()), sink)
    later = Running.submit(engine, answer(range(2, 20), 40))
    later.wait().check(decoder)
    engine.close()
    assert len(seen) == 5


def test_acceptance_is_what_was_checked_and_chosen():
    plain = fake_model()
    with plain:
        whole = plain.generate("ab", max_tokens=21, seed=3, ignore_eos=True)
        assert whole.timings.draft_acceptance is None
    for right, accepted in [(4, 1.0), (2, 0.5), (0, 0.0)]:
        # 21 tokens: one from the prompt, then four steps of 5, or as many as it takes.
        speculator = KnowingSpeculator(lambda s: whole.token_ids, lambda: 4, lambda r=right: r)
        with fake_model(speculator=speculator) as model:
            got = model.generate("ab", max_tokens=21, seed=3, ignore_eos=True)
        assert got.token_ids == whole.token_ids
        if right == 4:
            assert got.timings.draft_acceptance == 1.0
        else:
            assert got.timings.draft_acceptance == pytest.approx(accepted, abs=0.15)


def test_steps_are_measured_with_their_rows():
    decoder = FakeDecoder(max_rows=64)
    speculator = always(Truth(decoder), 3, 3)
    run(decoder, speculator, answer(range(2, 12), 9, stop_ids=frozenset()))
    assert speculator.steps == [(0, 10), (4, 0), (4, 0)]
    assert speculator.forgotten


class Fixed:
    """An answering sequence as a speculator sees it."""

    def __init__(self, id: int, prompt: list[int], said: list[int], room: int = 100) -> None:
        self.id, self.ids, self.room = id, [*prompt, *said], room
        self.request = answer(prompt)

    def forced(self, most):
        return []


def measured(**seconds: float) -> AdaptiveSpeculator:
    """A speculator that has seen steps of r1=…, r17=… rows."""
    speculator = AdaptiveSpeculator()
    for name, value in seconds.items():
        for _ in range(9):
            speculator.measured(int(name[1:]), 0, value)
    return speculator


def test_a_repeated_text_is_drafted_as_far_as_it_pays():
    prompt = list(range(100, 180))
    copying = Fixed(0, prompt, prompt[:20])
    assert measured(r1=1.0, r17=1.1).drafts([copying], 0, 200) == {0: prompt[20:36]}
    assert measured(r1=1.0, r2=2.0, r17=17.0).drafts([copying], 0, 200) == {}
    some = measured(r1=1.0, r5=1.2, r6=9.0).drafts([copying], 0, 200)
    assert some == {0: prompt[20:24]}
    assert measured(r1=1.0, r17=1.1).drafts([copying], 0, 3) == {0: prompt[20:23]}
    assert measured(r1=1.0, r17=1.1).drafts([Fixed(0, prompt, prompt[:20], 2)], 0, 9) == {0: prompt[20:22]}
    assert measured(r1=1.0, r17=1.1).drafts([Fixed(0, prompt, prompt[:20], 0)], 0, 9) == {}


def test_rows_go_to_the_sequences_that_promise_most():
    prompt = list(range(100, 180))
    sure, unsure, lost = Fixed(0, prompt, prompt[:40]), Fixed(1, prompt, prompt[:2]), Fixed(2, prompt, [7, 8])
    drafts = measured(r1=1.0, r3=2.0, r40=10.0).drafts([unsure, sure, lost], 0, 200)
    assert len(drafts[0]) > len(drafts.get(1, ())) and 2 not in drafts


def test_what_is_computed_anyway_makes_guesses_cheaper():
    prompt = list(range(100, 180))
    alone, beside = (measured(r1=1.0, r2=2.0, r17=17.0) for _ in range(2))
    for speculator in (alone, beside):
        speculator.measured(1, 64, 101.0)
    copying = Fixed(0, prompt, prompt[:20])
    assert alone.drafts([copying], 0, 200) == {}
    assert beside.drafts([copying], 64, 200) == {0: prompt[20:36]}


def test_predictions_that_fail_are_given_up_without_a_draft():
    """Evidence comes from every token: a pair that is followed by something else each time is not drafted."""
    rng = random.Random(0)
    speculator = measured(r1=1.0, r2=1.5, r17=6.0)
    prompt = [t for _ in range(60) for t in (5, 6, rng.randrange(1000, 2000))]
    said: list[int] = []
    for _ in range(60):
        said += [5, 6, rng.randrange(1000, 2000)]
        speculator.drafts([Fixed(0, prompt, said)], 0, 200)
    assert speculator.drafts([Fixed(0, prompt, [*said, 5, 6])], 0, 200) == {}


def test_the_ngram_speculator_in_the_engine_equals_none():
    for seed in range(4):
        rng = random.Random(seed)
        decoder = FakeDecoder(max_rows=64)
        requests = [
            answer([2, *rng.choices(range(4), k=30)], 40, rng.choice(SAMPLINGS), n=rng.choice([1, 3]))
            for _ in range(6)
        ]
        for running in run(decoder, AdaptiveSpeculator(), *requests, shortest_prefix=2):
            running.check(decoder)
