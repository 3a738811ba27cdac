"""The scheduler: tables of who gets which rows, and a simulation that looks for starvation and losses."""

from __future__ import annotations

import random

import pytest

from gemlet.errors import InvalidRequestError, QueueFullError
from gemlet.infer.scheduler import AGEING, Chunk, Job, Limits, Outlook, Scheduler


def scheduler(step_rows=16, beside=6, sequences=3, waiting=100, limit=None):
    return Scheduler(Limits(step_rows, beside, sequences, waiting, limit))


def plan(of):
    of.admit()
    return [(chunk.id, chunk.rows) for chunk in of.plan()]


def test_one_prompt_is_cut_into_steps():
    s = scheduler()
    s.submit(Job(1, 35))
    assert [plan(s) for _ in range(4)] == [[(1, 16)], [(1, 16)], [(1, 3)], []]
    assert not s.idle
    s.more(1)
    assert plan(s) == [(1, 1)]
    s.remove(1)
    assert s.idle


def test_prompts_fill_a_step_in_order_of_admission():
    s = scheduler()
    for id, rows in [(1, 10), (2, 10), (3, 2), (4, 1)]:
        s.submit(Job(id, rows))
    assert plan(s) == [(1, 10), (2, 6)]  # three may run: 4 waits
    assert plan(s) == [(2, 4), (3, 2)]
    s.remove(2)
    assert plan(s) == [(4, 1)]


def test_answers_come_first_and_prompts_beside_them_are_smaller():
    s = scheduler()
    s.submit(Job(1, 1))
    plan(s)
    s.more(1)
    s.submit(Job(2, 100))
    assert plan(s) == [(1, 1), (2, 6)]
    assert plan(s) == [(2, 16)]  # nothing of 1 is pending: it waits for its token
    s.more(1)
    assert plan(s) == [(1, 1), (2, 6)]


def test_answers_with_drafts_share_the_step():
    s = scheduler(step_rows=8, sequences=3)
    for id in (1, 2, 3):
        s.submit(Job(id, 1))
    plan(s)
    for id in (1, 2, 3):
        s.more(id, 7)
    assert plan(s) == [(1, 6), (2, 1), (3, 1)]


def test_drafts_take_what_is_left_and_leave_nothing_behind():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    s.submit(Job(2, 1))
    plan(s)
    s.more(1)
    s.more(2)
    s.submit(Job(3, 100))
    s.admit()
    assert s.outlook() == Outlook((1, 2), 6, 8)
    assert [(c.id, c.rows) for c in s.plan({1: 5, 2: 7})] == [(1, 6), (2, 4), (3, 6)]
    s.more(1)
    assert s.outlook() == Outlook((1,), 6, 9)
    assert [(c.id, c.rows) for c in s.plan({2: 3})] == [(1, 1), (3, 6)]  # 2 brings no row: no draft either


def test_without_prompts_drafts_may_fill_the_step():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    plan(s)
    assert s.outlook() == Outlook((), 0, 16)
    s.more(1)
    assert s.outlook() == Outlook((1,), 0, 15)
    assert [(c.id, c.rows) for c in s.plan({1: 40})] == [(1, 16)]
    assert plan(s) == []


def test_a_short_rest_of_a_prompt_keeps_its_rows():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    plan(s)
    s.more(1)
    s.submit(Job(2, 2))
    s.admit()
    assert s.outlook() == Outlook((1,), 2, 13)
    assert [(c.id, c.rows) for c in s.plan({1: 14})] == [(1, 14), (2, 2)]


def test_chunk_limits_a_prompt():
    s = scheduler()
    s.submit(Job(1, 20, chunk=5))
    s.submit(Job(2, 20))
    assert plan(s) == [(1, 5), (2, 11)]


def test_known_rows_are_skipped():
    s = scheduler()
    s.submit(Job(1, 30))
    assert s.admit() == (1,) and s.admit() == ()
    with pytest.raises(InvalidRequestError, match="skip"):
        s.skip(1, 30)
    s.skip(1, 29)
    assert plan(s) == [(1, 1)]


def test_followers_pass_the_line():
    s = scheduler(sequences=2)
    for id in (1, 2, 3):
        s.submit(Job(id, 1))
    plan(s)
    s.follow(Job(10, 1))
    s.remove(1)
    assert plan(s) == [(10, 1)]


def test_priority_and_ageing():
    s = scheduler(sequences=1)
    s.submit(Job(0, 1))
    plan(s)
    s.submit(Job(1, 1, priority=0))
    order, running = [], 0
    for id in range(2, 40):
        s.submit(Job(id, 1, priority=1))
        s.remove(running)
        ((running, _),) = plan(s)
        order.append(running)
    # The low one is overtaken only until its age makes up for the priority.
    assert order.index(1) == AGEING


def test_head_of_line_waits_for_memory_and_nothing_passes_it():
    s = scheduler(limit=100)
    s.submit(Job(1, 1, price=60))
    s.submit(Job(2, 1, price=50))
    s.submit(Job(3, 1, price=10))
    assert plan(s) == [(1, 1)]
    assert plan(s) == []
    s.remove(1)
    assert plan(s) == [(2, 1), (3, 1)]


def test_what_can_never_run_is_refused():
    s = scheduler(limit=100)
    with pytest.raises(InvalidRequestError, match="101 bytes"):
        s.submit(Job(1, 1, price=101))
    with pytest.raises(InvalidRequestError, match="no rows"):
        s.submit(Job(1, 0))
    s.submit(Job(1, 1))
    with pytest.raises(InvalidRequestError, match="known already"):
        s.submit(Job(1, 1))


def test_the_line_is_bounded_and_cancelling_frees_a_place():
    s = scheduler(sequences=1, waiting=2)
    s.submit(Job(1, 1))
    plan(s)
    s.submit(Job(2, 1))
    s.submit(Job(3, 1))
    with pytest.raises(QueueFullError):
        s.submit(Job(4, 1))
    s.remove(2)
    s.submit(Job(4, 1))
    assert (s.waiting, s.running) == (2, 1)
    s.remove(99)  # unknown: nothing happens


@pytest.mark.parametrize("values", [(0, 1, 1, 1), (8, 0, 1, 1), (8, 1, 0, 1), (8, 1, 1, 0), (8, 1, 8, 1)])
def test_limits_are_checked(values):
    with pytest.raises(InvalidRequestError):
        Limits(*values)


class Simulation:
    """Random arrivals, lengths, forks and cancellations, and what must hold after every step."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.limits = Limits(rng.choice([4, 16, 64]), rng.choice([1, 8, 64]), rng.randint(1, 3), 50, 1000)
        self.scheduler = Scheduler(self.limits)
        self.pending: dict[int, int] = {}
        self.answers: dict[int, int] = {}
        self.answering: set[int] = set()
        self.started = self.ended = self.refused = 0

    def arrive(self, follow: bool = False) -> None:
        rng, id = self.rng, self.started
        rows = 1 if follow else rng.randint(1, 40)
        job = Job(id, rows, rng.randint(0, 1000), rng.randint(0, 2), rng.choice([None, 3]))
        self.started += 1
        try:
            (self.scheduler.follow if follow else self.scheduler.submit)(job)
        except QueueFullError:
            self.refused += 1
            return
        self.pending[id], self.answers[id] = job.rows, rng.randint(0, 30)

    def end(self, id: int) -> None:
        self.scheduler.remove(id)
        del self.pending[id], self.answers[id]
        self.answering.discard(id)
        self.ended += 1

    def step(self) -> None:
        self.scheduler.admit()
        chunks = self.scheduler.plan()
        self.check(chunks)
        for chunk in chunks:
            self.pending[chunk.id] -= chunk.rows
            if self.pending[chunk.id] > 0:
                continue
            if self.answers[chunk.id] == 0:
                self.end(chunk.id)
                continue
            if chunk.id not in self.answering and self.rng.random() < 0.1:
                self.arrive(follow=True)
            self.answers[chunk.id] -= 1
            self.pending[chunk.id] += 1
            self.answering.add(chunk.id)
            self.scheduler.more(chunk.id)

    def check(self, chunks: tuple[Chunk, ...]) -> None:
        rows = [chunk.rows for chunk in chunks]
        assert sum(rows) <= self.limits.step_rows and all(n > 0 for n in rows)
        assert len({chunk.id for chunk in chunks}) == len(chunks) <= self.limits.sequences
        assert all(chunk.rows <= self.pending[chunk.id] for chunk in chunks)
        assert self.answering <= {chunk.id for chunk in chunks}  # no answer ever misses a step
        assert chunks or not self.pending  # while there is work, every step does some


@pytest.mark.parametrize("seed", range(8))
def test_simulation(seed):
    simulation = Simulation(seed)
    for _ in range(30_000):
        if simulation.started < 400 and simulation.rng.random() < 0.1:
            simulation.arrive()
        if simulation.pending and simulation.rng.random() < 0.005:
            simulation.end(simulation.rng.choice(list(simulation.pending)))
        simulation.step()
        if simulation.started >= 400 and simulation.scheduler.idle:
            break
    assert simulation.scheduler.idle and not simulation.pending
    assert simulation.ended + simulation.refused == simulation.started
    simulation.scheduler.submit(Job(10_000, 1, price=1000))  # all memory was given back
    assert plan(simulation.scheduler) == [(10_000, 1)]
