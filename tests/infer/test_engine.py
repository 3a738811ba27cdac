"""The engine equals one sequence alone, whatever surrounds a request; and nothing makes it hang."""

from __future__ import annotations

import random
import threading
import time

import pytest

from gemlet.errors import (
    ContextLengthError,
    GemletError,
    InvalidRequestError,
    QueueFullError,
)
from gemlet.infer.engine import Engine
from gemlet.infer.prefixes import Place, Prefixes
from gemlet.infer.requests import AnswerRequest, PromptRequest
from gemlet.infer.scheduler import Limits
from gemlet.types import Sampling
from tests.infer.fakes import STOP, FakeDecoder, FakeState
from tests.infer.naive import Running

WARM = Sampling(top_k=20, top_p=0.95)


def answer(ids, max_tokens=10, sampling=WARM, seed=1, stop_ids=frozenset({STOP}), **more) -> AnswerRequest:
    return AnswerRequest(tuple(ids), max_tokens, sampling, seed, stop_ids=stop_ids, **more)


@pytest.fixture
def make():
    """Engines that are closed after the test."""
    engines = []

    def build(decoder=None, **options):
        options.setdefault("shortest_prefix", 2)
        engines.append(Engine(decoder or FakeDecoder(), **options))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def random_request(rng: random.Random, earlier: list[Running]) -> AnswerRequest | PromptRequest:
    ids = [2, *(rng.randrange(40) for _ in range(rng.randint(0, 40)))]
    if earlier and rng.random() < 0.6:  # continue, or branch off, something seen before
        before = rng.choice(earlier)
        said = [token for token, *_ in before.tokens.get(0, [])]
        seen = [*before.request.ids, *said]
        ids = seen[: rng.randint(1, len(seen))] + ids[1:]
    ids = tuple(ids[:100])
    if rng.random() < 0.3:
        some = tuple(sorted(rng.sample(range(len(ids)), rng.randint(0, len(ids)))))
        score_from = rng.randint(1, len(ids) - 1) if len(ids) > 1 and rng.random() < 0.6 else None
        hidden = some if rng.random() < 0.5 else ()
        return PromptRequest(ids, some or (len(ids) - 1,), hidden, score_from)
    sampling = rng.choice(
        [WARM, Sampling(temperature=0.0), Sampling(min_p=0.1), Sampling(repetition_penalty=1.3, top_k=5)]
    )
    return answer(
        ids, rng.randint(1, 30), sampling, rng.randint(0, 5), n=rng.choice([1, 1, 1, 2, 5]),
        logprobs=rng.choice([None, 0, 3]),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_one_sequence_alone(make, seed):
    """Random requests, chunk sizes, neighbours, forks, cancellations and prefix hits change no bit."""
    rng = random.Random(seed)
    decoder = FakeDecoder(max_rows=rng.choice([8, 16, 64]), stop_bias=rng.choice([-1.0, 2.0]))
    limits = Limits(decoder.max_rows, rng.choice([1, 8]), rng.choice([1, 2, 7]))
    engine = make(decoder, limits=limits, prefix_bytes=rng.choice([0, 3000, 2**20]))
    done: list[Running] = []
    for _ in range(6):
        batch = [Running.submit(engine, random_request(rng, done)) for _ in range(rng.randint(1, 10))]
        for running in batch:
            if rng.random() < 0.15:
                for _ in range(rng.randint(0, 3)):
                    if not running.finished:
                        running.take()
                running.ticket.cancel(rng.choice([None, 0]))
        done += [running.wait() for running in batch]
    for running in done:
        running.check(decoder)
    assert engine.counts() == (0, 0)
    if engine.context and limits.sequences > 1:
        assert any(len(rows) > 1 for rows in decoder.steps)  # requests really shared steps


def test_a_whole_prompt_seen_before_computes_one_row(make):
    decoder = FakeDecoder()
    engine = make(decoder)
    ids = range(2, 32)
    first = Running.submit(engine, answer(ids, 3, stop_ids=frozenset())).wait()
    assert first.started.cached_tokens == 0
    assert first.started.cache_miss_reason == "no earlier request shares the beginning"
    decoder.steps.clear()
    again = Running.submit(engine, answer(ids, 3, stop_ids=frozenset())).wait()
    assert again.started.cached_tokens == 29 and again.started.cache_miss_reason is None
    assert decoder.steps == [(1,), (1,), (1,)]
    assert again.tokens == first.tokens


def test_a_prompt_is_found_behind_which_others_went_on(make):
    engine = make()
    ids = [2 + i % 30 for i in range(130)]
    Running.submit(engine, answer(ids, 100, stop_ids=frozenset())).wait()
    for length in (130, 129, 128, 100, 64, 5):
        again = Running.submit(engine, answer(ids[:length], 3)).wait()
        assert again.started.cached_tokens == length - 1
        again.check(FakeDecoder())


def test_a_failure_to_catch_up_is_of_one_request(make, monkeypatch):
    decoder = FakeDecoder(max_rows=16)
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(4, sequences=3))
    find, calls = Prefixes.find, []

    def failing(self, place, ids, most):
        calls.append(len(ids))
        if len(ids) == 90 and calls.count(90) == 2:
            raise MemoryError("no room for pages")
        return find(self, place, ids, most)

    monkeypatch.setattr(Prefixes, "find", failing)
    running = [Running.submit(engine, answer([2] * length, 1)) for length in (100, 90, 80)]
    decoder.gate.set()
    assert isinstance(running[1].wait().error, MemoryError)
    for index in (0, 2):
        running[index].wait().check(decoder)


def test_a_request_cancelled_before_its_first_row_never_started(make):
    decoder = FakeDecoder(max_rows=16)
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(16, sequences=4))
    first, second = (Running.submit(engine, answer([2] * length, 1)) for length in (100, 90))
    second.ticket.cancel()
    decoder.gate.set()
    assert second.wait().started is None and second.ended == {0: "cancelled"}
    first.wait().check(decoder)


def test_roots_share_nothing():
    """As with another adapter: the same ids, other bits."""
    decoder = FakeDecoder()
    prefixes = Prefixes(decoder, 2**20, 2)
    state = FakeState(tuple(range(100)))
    prefixes.register(Place(b"one"), state.ids, state, end=True)
    assert prefixes.find(Place(b"two"), state.ids, 99).reason == "no earlier request shares the beginning"
    assert prefixes.find(Place(b"one"), state.ids, 99).state.length == 99


def test_reuse_switched_off_says_so(make):
    engine = make(prefix_bytes=0)
    Running.submit(engine, answer([2, 3, 4])).wait()
    again = Running.submit(engine, answer([2, 3, 4])).wait()
    assert again.started.cached_tokens == 0
    assert again.started.cache_miss_reason == "prefix reuse is switched off"


def test_choices_share_one_prefill(make):
    decoder = FakeDecoder(max_rows=64)
    engine = make(decoder)
    running = Running.submit(engine, answer(range(2, 32), 4, n=5, stop_ids=frozenset())).wait()
    running.check(decoder)
    assert decoder.steps[0] == (30,)
    assert sum(sum(rows) for rows in decoder.steps) == 30 + 5 * 3
    assert len({tuple(tokens) for tokens in running.tokens.values()}) > 1


def test_cancel_ends_within_one_step(make):
    decoder = FakeDecoder(delay=0.01)
    engine = make(decoder)
    running = Running.submit(engine, answer([2], 200, stop_ids=frozenset()))
    while not running.tokens:
        running.take()
    running.ticket.cancel()
    steps = len(decoder.steps)
    running.wait()
    assert running.ended == {0: "cancelled"}
    assert len(decoder.steps) <= steps + 1
    running.ticket.cancel()  # ended already: nothing happens


def test_cancel_one_choice_and_leave_the_others(make):
    decoder = FakeDecoder(delay=0.002)
    engine = make(decoder)
    running = Running.submit(engine, answer([2, 3], 40, n=3, stop_ids=frozenset()))
    while len(running.tokens) < 3:
        running.take()
    running.ticket.cancel(1)
    running.wait()
    assert running.ended == {0: "length", 1: "cancelled", 2: "length"}
    running.check(decoder)


def test_cancelling_the_first_choice_before_the_answers_begin(make):
    decoder = FakeDecoder(max_rows=8)
    engine = make(decoder, limits=Limits(8, 8, 4))
    decoder.gate = threading.Event()
    running = Running.submit(engine, answer(range(2, 32), 4, n=2, stop_ids=frozenset()))
    running.take()
    running.ticket.cancel(0)
    decoder.gate.set()
    running.wait()
    assert running.ended == {0: "cancelled", 1: "length"}
    running.check(decoder)


def test_cancel_while_waiting(make):
    decoder = FakeDecoder()
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(32, 16, 1))
    first = Running.submit(engine, answer([2], 3))
    second = Running.submit(engine, answer([2], 3, n=2))
    second.ticket.cancel()
    decoder.gate.set()
    assert second.wait().ended == {0: "cancelled", 1: "cancelled"}
    first.wait().check(decoder)


def test_full_queue(make):
    decoder = FakeDecoder()
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(32, 16, sequences=1, waiting=2))
    running = [Running.submit(engine, answer([2], 2))]
    running[0].take()  # it runs: the line is empty
    running += [Running.submit(engine, answer([2], 2)) for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        Running.submit(engine, answer([2], 2))
    assert caught.value.http_status == 429
    decoder.gate.set()
    for one in running:
        one.wait().check(decoder)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (answer([]), "no tokens"),
        (answer([2, 40]), "40 is not a token id"),
        (answer([-1]), "-1 is not a token id"),
        (answer([2], 0), "max_tokens"),
        (answer([2], n=0), "n must be"),
        (answer([2], sampling=Sampling(top_p=2)), "top_p"),
        (answer([2], seed="x"), "seed"),
        (PromptRequest((2, 3)), "no position"),
        (PromptRequest((2, 3), logits=(2,)), "positions must be"),
        (PromptRequest((2, 3), score_from=0), "positions must be"),
        (PromptRequest((2, 3), score_from=2), "no position"),
    ],
)
def test_bad_requests_never_reach_a_step(make, request_, message):
    decoder = FakeDecoder()
    with pytest.raises(InvalidRequestError, match=message):
        make(decoder).submit(request_, print)
    assert not decoder.steps


def test_context_error_has_both_numbers(make):
    engine = make(context=20)
    with pytest.raises(ContextLengthError) as caught:
        engine.submit(answer(range(2, 17), 6), print)
    assert (caught.value.needed, caught.value.context) == (21, 20)
    Running.submit(engine, answer(range(2, 17), 5, stop_ids=frozenset())).wait()


def test_memory_is_priced_before_it_is_used(make):
    engine = make(limits=Limits(32, bytes=16 * 20))
    with pytest.raises(InvalidRequestError, match="336 bytes"):
        engine.submit(answer([2], 20), print)
    running = [Running.submit(engine, answer([2], 15, stop_ids=frozenset())) for _ in range(3)]
    for one in running:
        one.wait()


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(make):
    decoder = FakeDecoder()
    engine = make(decoder)

    def fail(batch):
        if 13 in batch.ids:
            raise MemoryError("no room")

    decoder.fail = fail
    bad = Running.submit(engine, answer([2, 13, 5], 3, n=2)).wait()
    assert isinstance(bad.error, MemoryError)
    good = Running.submit(engine, answer([2, 3, 5], 1)).wait()
    good.check(decoder)
    assert engine.counts() == (0, 0)


def test_failing_choice_takes_its_siblings_with_it(make):
    decoder = FakeDecoder()
    engine = make(decoder)

    def fail(batch):
        if len(batch.ids) > 1 and batch.positions[0] > 3:
            raise RuntimeError("broken")

    decoder.fail = fail
    bad = Running.submit(engine, answer([2], 40, n=4, stop_ids=frozenset())).wait()
    assert str(bad.error) == "broken"
    assert engine.counts() == (0, 0)


@pytest.mark.parametrize("which", [1, 2, 3])
def test_no_memory_for_a_choice_fails_its_request_only(make, monkeypatch, which):
    engine = make(prefix_bytes=0)
    copies = []

    def copy(self):
        copies.append(1)
        if len(copies) == which:
            raise MemoryError
        return FakeState(self.ids, self.longest)

    monkeypatch.setattr(FakeState, "copy", copy)
    assert isinstance(Running.submit(engine, answer([2], 5, n=4)).wait().error, MemoryError)
    Running.submit(engine, answer([2, 3], 5, n=2)).wait().check(FakeDecoder())
    assert engine.counts() == (0, 0)


def test_a_defect_of_the_loop_reaches_everyone(make, monkeypatch):
    decoder = FakeDecoder()
    engine = make(decoder)
    monkeypatch.setattr(engine._worker, "_step", lambda chunks: 1 / 0)
    running = [Running.submit(engine, answer([2], 3)) for _ in range(2)]
    assert isinstance(running[0].wait().error, ZeroDivisionError)
    deadline = time.monotonic() + 10
    while not decoder.closed and time.monotonic() < deadline:
        time.sleep(0.001)
    with pytest.raises(GemletError, match="the engine has stopped"):
        engine.submit(answer([2], 3), print)


def test_a_receiver_that_has_gone_away_is_cancelled(make):
    decoder = FakeDecoder()
    engine = make(decoder)
    seen = []

    def sink(event):
        seen.append(event)
        if len(seen) == 3:
            raise RuntimeError("Event loop is closed")

    engine.submit(answer([2], 200, stop_ids=frozenset()), sink)
    deadline = time.monotonic() + 10
    while engine.counts() != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert engine.counts() == (0, 0) and len(seen) == 3
    Running.submit(engine, answer([2, 3], 3)).wait().check(decoder)


def test_requests_from_many_threads(make):
    decoder = FakeDecoder(max_rows=64)
    engine = make(decoder, limits=Limits(64, 64, 4))
    failures = []

    def work(number):
        try:
            for i in range(10):
                Running.submit(engine, answer([2, number, i], 5, seed=i)).wait().check(decoder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
