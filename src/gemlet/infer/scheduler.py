"""Which rows of which sequence the next step computes.

Pure bookkeeping over counts: no threads, no clock, no tokens. A sequence first brings the rows of its prompt
and then, one at a time (more with drafts), the rows of its answer. The policy:

- answers first: every sequence that is answering gets a row in every step, so none stalls;
- then prompts: half of their rows go to the one admitted first, so that it moves on, and the other half by
  priority to the one with the least left, so that a short prompt does not wait for a long one; beside running
  answers they get fewer rows together, so that a long prompt costs the answers little time;
- a prompt that is held gets no rows: another one reads the beginning that both have;
- drafts share what is left evenly: they are guesses, and delay no row that is certainly needed;
- waiting jobs are admitted by priority and then by arrival; a job that others overtake rises, so none
  starves. The one at the head waits for a free place and free memory, and nothing of its rank passes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gemlet.errors import InvalidRequestError, QueueFullError

AGEING = 8
"""Admissions that a waiting job sees before it counts as one priority higher."""

HIGHEST_PRIORITY = 100
"""Priorities go from minus this to this: what a job's age can make up for must have an end."""


@dataclass(frozen=True)
class Limits:
    """What bounds a step and a queue. `bytes`: what running states may grow to together; None: any."""

    step_rows: int
    prompt_rows_beside_answers: int = 64
    sequences: int = 16
    waiting: int = 256
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("step_rows", "prompt_rows_beside_answers", "sequences", "waiting"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.sequences >= self.step_rows:
            # Otherwise answers could fill every step, and a prompt would wait for ever.
            raise InvalidRequestError(f"sequences must be below the {self.step_rows} rows of a step")


@dataclass(frozen=True)
class Job:
    """A sequence that wants to run. `rows`: those of its prompt. `price`: bytes its state may grow to.

    `chunk`: most rows a step may take of its prompt. A higher `priority` is admitted sooner.
    """

    id: int
    rows: int
    price: int = 0
    priority: int = 0
    chunk: int | None = None


@dataclass(frozen=True)
class Chunk:
    """The next `rows` rows of a sequence, as a part of a step."""

    id: int
    rows: int


@dataclass(frozen=True)
class Outlook:
    """The next step before it is planned: who answers, rows of prompts beside them, rows left for drafts."""

    answering: tuple[int, ...]
    beside: int
    room: int


@dataclass(frozen=True)
class Occupancy:
    """What is held at one moment: sequences that wait and that run, the bytes that the states of the running
    ones may grow to, and the bytes of pages kept of earlier requests.
    """

    waiting: int
    running: int
    reserved_bytes: int
    prefix_bytes: int


@dataclass
class _Waiting:
    job: Job
    arrival: int
    admitted_before: int


@dataclass
class _Running:
    job: Job
    pending: int
    answering: bool = False


class Scheduler:
    """Holds every sequence between `submit` and `remove`; `plan` decides a step."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: dict[int, _Waiting] = {}
        self._followers: dict[int, Job] = {}
        self._running: dict[int, _Running] = {}
        self._held: Collection[int] = ()
        self._arrivals = 0
        self._admissions = 0
        self._price = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._waiting or self._followers or self._running)

    def occupancy(self, prefix_bytes: int = 0) -> Occupancy:
        """Jobs that are not admitted yet, those that are, and their price."""
        waiting = len(self._waiting) + len(self._followers)
        return Occupancy(waiting, len(self._running), self._price, prefix_bytes)

    def submit(self, job: Job) -> None:
        """Put a job in line. QueueFullError when that is full, InvalidRequestError for what can never run."""
        self._check(job)
        if len(self._waiting) >= self.limits.waiting:
            hint = "try again when others have finished"
            raise QueueFullError(f"{len(self._waiting)} requests are waiting already", hint=hint)
        self._waiting[job.id] = _Waiting(job, self._arrivals, self._admissions)
        self._arrivals += 1

    def follow(self, job: Job) -> None:
        """Put a job before every other: it answers, as a further choice of a prompt read before does."""
        self._check(job)
        self._followers[job.id] = job

    def more(self, id: int, rows: int = 1) -> None:
        """A running sequence has further rows to compute, and is answering from now on."""
        sequence = self._running[id]
        sequence.pending += rows
        sequence.answering = True

    def remove(self, id: int) -> None:
        """Forget a sequence, wherever it is. An unknown id is ignored: it was removed before."""
        self._waiting.pop(id, None)
        self._followers.pop(id, None)
        if (sequence := self._running.pop(id, None)) is not None:
            self._price -= sequence.job.price

    def admit(self) -> tuple[int, ...]:
        """Let in what fits; the ids that run from now on."""
        admitted = []
        while len(self._running) < self.limits.sequences and (job := self._next()) is not None:
            if self.limits.bytes is not None and self._price + job.price > self.limits.bytes:
                break
            # Who follows has begun to answer: behind a long prompt it would stall.
            answering = self._followers.pop(job.id, None) is not None
            self._waiting.pop(job.id, None)
            self._running[job.id] = _Running(job, job.rows, answering)
            self._price += job.price
            self._admissions += 1
            admitted.append(job.id)
        return tuple(admitted)

    def skip(self, id: int, rows: int) -> None:
        """The first rows of an admitted prompt are known already. One at least must be left to compute."""
        sequence = self._running[id]
        if not 0 <= rows < sequence.pending:
            raise InvalidRequestError(f"cannot skip {rows} of {sequence.pending} rows")
        sequence.pending -= rows

    def hold(self, ids: Collection[int]) -> None:
        """Prompts that get no rows until the next call. Not all: something must be left to plan."""
        self._held = ids

    def outlook(self) -> Outlook:
        """What the next step will hold, and the room that it has for drafts."""
        answering = [s for s in self._running.values() if s.answering and s.pending]
        rows = sum(s.pending for s in answering)
        prompts = sum(s.pending for s in self._prompts())
        beside = min(prompts, self.limits.prompt_rows_beside_answers, self.limits.step_rows - len(answering))
        room = max(0, self.limits.step_rows - rows - beside)
        return Outlook(tuple(s.job.id for s in answering), beside, room)

    def plan(self, drafts: Mapping[int, int] | None = None) -> tuple[Chunk, ...]:
        """Take the rows of the next step from what runs. Empty only when nothing has rows to compute.

        drafts: further rows of answering sequences. What is not granted of them is not pending.
        """
        guesses = drafts or {}
        # The least first, so that what it leaves goes to the others; without drafts in order of admission.
        answering = sorted(
            (s for s in self._running.values() if s.answering and s.pending),
            key=lambda s: s.pending + guesses.get(s.job.id, 0),
        )
        left = self.limits.step_rows - len(answering)
        prompts = self._plan_prompts(min(left, self.limits.prompt_rows_beside_answers) if answering else left)
        left -= sum(chunk.rows for chunk in prompts)
        answers = []
        for others, sequence in zip(reversed(range(len(answering))), answering, strict=True):
            guessed = guesses.get(sequence.job.id, 0)
            rows = min(sequence.pending + guessed, 1 + left // (others + 1))
            answers.append(Chunk(sequence.job.id, rows))
            sequence.pending = max(0, sequence.pending - rows)
            left -= rows - 1
        return (*answers, *prompts)

    def _plan_prompts(self, left: int) -> list[Chunk]:
        """Share at most `left` rows among the prompts."""
        prompts = self._prompts()
        shares: dict[int, int] = {}
        first_share = (left + 1) // 2
        by_need = sorted(prompts, key=lambda s: (-s.job.priority, s.pending))
        for sequence, most in [*((s, first_share) for s in prompts[:1]), *((s, left) for s in by_need)]:
            given = shares.get(sequence.job.id, 0)
            wanted = min(sequence.pending, sequence.job.chunk or sequence.pending) - given
            rows = min(wanted, most, left)
            shares[sequence.job.id] = given + rows
            left -= rows
        return [self._take(s, shares[s.job.id]) for s in prompts if shares[s.job.id]]

    def _prompts(self) -> list[_Running]:
        pending = (s for s in self._running.values() if not s.answering and s.pending)
        return [sequence for sequence in pending if sequence.job.id not in self._held]

    def _check(self, job: Job) -> None:
        if job.id in self._waiting or job.id in self._followers or job.id in self._running:
            raise InvalidRequestError(f"job {job.id} is known already")
        if job.rows < 1:
            raise InvalidRequestError(f"job {job.id} has no rows")
        if abs(job.priority) > HIGHEST_PRIORITY:
            known = f"from {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
            raise InvalidRequestError(f"a priority is {known}, not {job.priority}")
        if self.limits.bytes is not None and job.price > self.limits.bytes:
            limit = f"the limit is {self.limits.bytes} bytes"
            raise InvalidRequestError(f"the request may need {job.price} bytes of memory, {limit}")

    def _take(self, sequence: _Running, most: int) -> Chunk:
        rows = min(sequence.pending, most)
        sequence.pending -= rows
        return Chunk(sequence.job.id, rows)

    def _next(self) -> Job | None:
        if self._followers:
            return next(iter(self._followers.values()))
        if not self._waiting:
            return None
        return min(self._waiting.values(), key=self._rank).job

    def _rank(self, waiting: _Waiting) -> tuple[int, int]:
        age = (self._admissions - waiting.admitted_before) // AGEING
        return -(waiting.job.priority + age), waiting.arrival
