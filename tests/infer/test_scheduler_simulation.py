"""Thousands of random jobs through the scheduler, with its promises checked at every step.

The bounds follow from the policy, not from what was seen. Broken schedulers show that each check can fail.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from gemlet.errors import QueueFullError
from gemlet.infer.scheduler import AGEING, Chunk, Job, Limits, Scheduler

HIGHEST = 2
"""Priorities here go from 0 to this."""


@dataclass
class Life:
    """What the simulation itself knows of a job."""

    job: Job
    pending: int
    answers: int
    follower: bool = False
    passed_by: int = 0
    running: bool = False
    answering: bool = False


class Simulation:
    """Random arrivals, lengths, priorities, prices, reused rows, choices, drafts and cancellations."""

    def __init__(self, seed: int, kind: type[Scheduler] = Scheduler, jobs: int = 1000) -> None:
        self.rng = rng = random.Random(seed)
        self.jobs = jobs
        sequences = rng.randint(1, 6)
        self.limits = Limits(
            step_rows=sequences + rng.choice([1, 7, 60]),
            prompt_rows_beside_answers=rng.choice([1, 8, 64]),
            sequences=sequences,
            waiting=rng.choice([3, 20, 60]),
            bytes=1000,
        )
        self.most_drafts = rng.choice([0, 0, 3, 20])
        self.arrival = rng.choice([0.02, 0.1, 0.4])
        self.scheduler = kind(self.limits)
        self.lives: dict[int, Life] = {}
        self.started = self.ended = self.refused = self.taken = self.given = 0

    def run(self) -> None:
        for _ in range(400 * self.jobs):
            while self.started - self.refused < self.jobs and self.rng.random() < self.arrival:
                self.arrive()
            self.cancel_some()
            self.admit()
            chunks = self.scheduler.plan()
            self.check(chunks)
            for chunk in chunks:
                self.compute(chunk)
            if self.started - self.refused >= self.jobs and not self.lives:
                break
        assert self.scheduler.idle and not self.lives, "a request was lost"
        assert self.ended + self.refused == self.started
        assert self.taken == self.given, "rows were lost or made up"
        self.scheduler.submit(Job(-1, 1, price=1000))
        assert self.scheduler.admit() == (-1,), "memory was not given back"

    def arrive(self, follow: bool = False) -> None:
        rng, id = self.rng, self.started
        rows = 1 if follow else rng.choice([1, 5, rng.randint(1, 40), 300])
        price = rng.choice([0, 50, rng.randint(0, 1000)])
        job = Job(id, rows, price, rng.randint(0, HIGHEST), rng.choice([None, None, 3]))
        self.started += 1
        in_line = sum(not life.running and not life.follower for life in self.lives.values())
        try:
            (self.scheduler.follow if follow else self.scheduler.submit)(job)
        except QueueFullError:
            assert in_line == self.limits.waiting, "refused although the line had room"
            self.refused += 1
            return
        assert follow or in_line < self.limits.waiting
        self.given += rows
        self.lives[id] = Life(job, rows, rng.choice([0, 3, rng.randint(0, 60)]), follow)

    def cancel_some(self) -> None:
        if self.lives and self.rng.random() < 0.02:
            id = self.rng.choice(list(self.lives))
            self.given -= self.lives[id].pending
            self.end(id)  # the next plan must not name it: `check` knows only what lives

    def end(self, id: int) -> None:
        self.scheduler.remove(id)
        del self.lives[id]
        self.ended += 1

    def admit(self) -> None:
        for id in self.scheduler.admit():
            life = self.lives[id]
            life.running, life.answering = True, life.follower
            if not life.follower:
                for other in self.lives.values():
                    other.passed_by += not other.running
                if life.pending > 1 and self.rng.random() < 0.3:
                    known = self.rng.randint(1, life.pending - 1)
                    self.scheduler.skip(id, known)
                    life.pending -= known
                    self.given -= known
        running = [life for life in self.lives.values() if life.running]
        assert len(running) <= self.limits.sequences
        assert sum(life.job.price for life in running) <= 1000
        # Only a job that arrived in the first AGEING * HIGHEST admissions after this one's arrival can be
        # before it: a later one makes up for no priority any more. Those in line by then are bounded too.
        longest = AGEING * HIGHEST + self.limits.waiting - 1
        waiting = [life for life in self.lives.values() if not life.running]
        assert all(life.passed_by <= longest for life in waiting if not life.follower), "a job starves"
        assert running or not waiting, "jobs wait although nothing runs"

    def check(self, chunks: tuple[Chunk, ...]) -> None:
        given = {chunk.id: chunk.rows for chunk in chunks}
        assert len(given) == len(chunks), "a sequence was planned twice"
        assert all(id in self.lives and self.lives[id].running for id in given), "planned what is gone"
        assert all(0 < rows <= self.lives[id].pending for id, rows in given.items())
        running = {id: life for id, life in self.lives.items() if life.running}
        answers = {id: life for id, life in running.items() if life.answering}
        prompts = {id: life for id, life in running.items() if not life.answering}
        assert answers.keys() <= given.keys(), "an answer stalls"
        room = self.limits.step_rows - len(answers)
        if answers:
            room = min(room, self.limits.prompt_rows_beside_answers)
        need = {id: min(life.pending, life.job.chunk or life.pending) for id, life in prompts.items()}
        of_prompts = sum(given.get(id, 0) for id in prompts)
        assert of_prompts == min(room, sum(need.values())), "prompts get too much or too little"
        assert all(given.get(id, 0) <= need[id] for id in prompts), "a chunk is too long"
        of_answers = sum(life.pending for life in answers.values())
        assert sum(given.values()) - of_prompts == min(of_answers, self.limits.step_rows - of_prompts)
        shares = [given[id] for id in answers]
        for id, life in answers.items():
            assert given[id] == life.pending or given[id] >= max(shares) - 1, "drafts are shared unevenly"
        self.check_progress(given, room, need)

    def check_progress(self, given: dict[int, int], room: int, need: dict[int, int]) -> None:
        """The prompt admitted first gets half of the room, so that it is read within known time."""
        if need:
            first = next(id for id in self.order() if id in need)
            assert given.get(first, 0) >= min(need[first], (room + 1) // 2), "a prompt starves"

    def order(self) -> list[int]:
        """Ids in order of admission."""
        return list(self.scheduler._running)

    def compute(self, chunk: Chunk) -> None:
        life = self.lives[chunk.id]
        self.taken += chunk.rows
        life.pending -= chunk.rows
        if life.pending:
            return
        if life.answers <= 0:
            self.end(chunk.id)
            return
        if not life.answering and self.rng.random() < 0.1:
            self.arrive(follow=True)
        rows = 1 + self.rng.randint(0, self.most_drafts)
        life.answering = True
        life.answers -= self.rng.randint(1, rows)
        life.pending += rows
        self.given += rows
        self.scheduler.more(chunk.id, rows)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_promised_holds_at_every_step(seed: int) -> None:
    Simulation(seed).run()


class NoAgeing(Scheduler):
    def _rank(self, waiting: Any) -> tuple[int, int]:
        return -waiting.job.priority, waiting.arrival


class GreedyAnswers(Scheduler):
    """Answers take all their rows, drafts included, before a prompt gets any."""

    def _plan_prompts(self, left: int) -> list[Chunk]:
        pending = sum(s.pending - 1 for s in self._running.values() if s.answering)
        return super()._plan_prompts(max(0, left - pending))


class WideBesideAnswers(Scheduler):
    def _plan_prompts(self, left: int) -> list[Chunk]:
        return super()._plan_prompts(self.limits.step_rows - sum(s.answering for s in self._running.values()))


class LastFirst(Scheduler):
    """Prompts in the reverse of the order in which they were admitted."""

    def _plan_prompts(self, left: int) -> list[Chunk]:
        self._running = dict(reversed(self._running.items()))
        try:
            return super()._plan_prompts(left)
        finally:
            self._running = dict(reversed(self._running.items()))


class Leaking(Scheduler):
    def remove(self, id: int) -> None:
        price = self._price
        super().remove(id)
        self._price = max(self._price, price - 900)


class Forgetful(Scheduler):
    def admit(self) -> tuple[int, ...]:
        admitted = super().admit()
        if len(admitted) > 1:
            del self._running[admitted[-1]]
            return admitted[:-1]
        return admitted


class Deaf(Scheduler):
    """Cancels only what waits."""

    def remove(self, id: int) -> None:
        if id not in self._running or self._running[id].pending == 0:
            super().remove(id)


@pytest.mark.parametrize(
    "broken", [NoAgeing, GreedyAnswers, WideBesideAnswers, LastFirst, Leaking, Forgetful, Deaf]
)
def test_a_broken_scheduler_is_noticed(broken: type[Scheduler]) -> None:
    with pytest.raises(AssertionError):
        for seed in range(8):
            Simulation(seed, broken).run()
