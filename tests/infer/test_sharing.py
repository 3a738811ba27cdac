"""Prompts with the same beginning: it is read once, whoever arrives when."""

from __future__ import annotations

import threading

import pytest

from gemlet.infer.engine import Engine
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.scheduler import Limits
from gemlet.types import Sampling
from tests.infer.fakes import FakeDecoder
from tests.infer.naive import Running

WARM = Sampling(top_k=20, top_p=0.95)


@pytest.fixture
def make():
    """Engines that are closed after the test."""
    engines = []

    def build(decoder, **options):
        engines.append(Engine(decoder, shortest_prefix=2, **options))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def test_a_prompt_begins_where_another_is_reading(make):
    """Both are admitted at once; the second one waits for rows, and computes none that the first has."""
    decoder = FakeDecoder(max_rows=16)
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(16, sequences=4))
    ids = [2 + i % 30 for i in range(200)]
    pair = [Running.submit(engine, AnswerRequest(tuple(ids), 1, WARM, 1)) for _ in range(2)]
    decoder.gate.set()
    for running in pair:
        running.wait().check(decoder)
    assert [running.started.cached_tokens for running in pair] == [0, 192]
    assert pair[1].started.cache_miss_reason is None
    assert sum(sum(rows) for rows in decoder.steps) == 200 + 8


def together(make, prompts, priorities=None):
    """What each of these prompts, all there before the first step, took over; the rows that were computed."""
    decoder = FakeDecoder(max_rows=64)
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(64, sequences=8))
    priorities = priorities or [0] * len(prompts)
    running = [
        Running.submit(engine, AnswerRequest(tuple(ids), 1, WARM, 1, priority=priority))
        for ids, priority in zip(prompts, priorities, strict=True)
    ]
    decoder.gate.set()
    for each in running:
        each.wait().check(decoder)
    return [each.started.cached_tokens for each in running], sum(sum(rows) for rows in decoder.steps)


SHARED = [2 + i % 29 for i in range(128)]


def test_prompts_that_arrive_together_read_what_they_share_once(make):
    """Also where steps have room for all of them at once, and where some of them share more than all do."""
    tails = [[3] * 10, [4] * 70 + [5], [4] * 70 + [6], [7] * 3]
    cached, rows = together(make, [SHARED + tail for tail in tails])
    # The third finds the second at its end, where its last page comes in as well.
    assert cached == [0, 128, 128 + 70, 128]
    assert rows == 128 + 10 + 71 + 1 + 3


def test_nothing_waits_for_a_prompt_of_lower_priority(make):
    cached, rows = together(make, [[*SHARED, 3], [*SHARED, 4]], [0, 1])
    assert cached[1] == 0
    assert rows <= 2 * 129


def test_prompts_that_share_no_page_do_not_wait(make):
    cached, rows = together(make, [SHARED[:63] + [31] * 9, SHARED[:63] + [30] * 9])
    assert cached == [0, 0] and rows == 2 * 72


def test_who_waited_for_a_cancelled_prompt_reads_on(make):
    decoder = FakeDecoder(max_rows=16)
    decoder.gate = threading.Event()
    engine = make(decoder, limits=Limits(16, sequences=4))
    first, second = (Running.submit(engine, AnswerRequest((*SHARED, tail), 1, WARM, 1)) for tail in (3, 4))
    first.ticket.cancel()
    decoder.gate.set()
    assert first.wait().ended == {0: "cancelled"}
    second.wait().check(decoder)
