"""Following a grammar along one answer: which tokens may come next, worked out in a thread of its own.

What is allowed depends on the grammar and the tokens of the answer alone. Drafts are looked at ahead of
time, and what that finds is used where they came true; whatever goes wrong behind a guess is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import GemletError, InvalidRequestError
from gemlet.infer.allowed import Allowed
from gemlet.infer.spelling import Spelling, State

if TYPE_CHECKING:
    import llguidance

SECONDS = 1.0
SECONDS_A_TOKEN = 0.02
"""Processor time that an answer may spend on its grammar, at its beginning and for each token."""

THREADS = 2
LOOKS, LOOK_SECONDS = 50, 0.1
"""A job that runs is looked at so often before it is given up. Looks are counted, not time: a machine that
sleeps, or a process that is stopped, makes no job slow."""


class Jobs:
    """Threads that work out masks. One that does not come back is given up and replaced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool = self._new()

    def submit(self, work: Callable[[], list[Step]]) -> Job:
        with self._lock:
            return Job(self, work, self._pool, self._pool.submit(work))

    def replace(self, pool: ThreadPoolExecutor) -> None:
        """Begin a new pool in the place of one of which a thread is lost."""
        with self._lock:
            if pool is self._pool:
                self._pool = self._new()

    def current(self, pool: ThreadPoolExecutor) -> bool:
        with self._lock:
            return pool is self._pool

    @staticmethod
    def _new() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="gemlet-constrain")


class Job:
    """Work that runs, or waits for a thread."""

    def __init__(
        self,
        jobs: Jobs,
        work: Callable[[], list[Step]],
        pool: ThreadPoolExecutor,
        future: Future[list[Step]],
    ) -> None:
        self._jobs = jobs
        self._work = work
        self._pool = pool
        self._future = future

    def result(self) -> list[Step]:
        """Wait. Only time in which the work itself runs counts; InvalidRequestError when it is too much."""
        looks = 0
        while True:
            try:
                return self._future.result(LOOK_SECONDS)
            except NotYet:
                if self._future.running():
                    looks += 1
                elif not self._jobs.current(self._pool) and self._future.cancel():
                    return self._jobs.submit(self._work).result()  # its threads were lost to others
            if looks == LOOKS:
                self._jobs.replace(self._pool)
                raise _too_slow()


class Vocabulary:
    """What a matcher needs to know of a tokenizer, as llguidance takes it.

    control: bool [vocab]. text_bits: the tokens that are text, as `Allowed` holds them. end_id: the id that
    stands for the end in masks. spelling: what tokens do to the strings of a JSON text.
    """

    def __init__(
        self,
        tokenizer: llguidance.LLTokenizer,
        control: NDArray[np.bool_],
        end_id: int,
        spelling: Spelling,
    ) -> None:
        self.tokenizer = tokenizer
        self.control = control
        self.text_bits = np.packbits(~control, bitorder="little")
        self.end_id = end_id
        self.spelling = spelling

    def allowed(self, mask: bytes, ends: Sequence[int], spelled: State) -> Allowed:
        """What may come next. `ends`: the ids that end an answer; they may where the text is complete.

        InvalidRequestError where nothing may.
        """
        bits = np.frombuffer(mask, np.uint8)[: len(self.text_bits)] & self.text_bits
        if (spellings := self.spelling.allowed(spelled)) is not None:
            bits &= spellings
        if mask[self.end_id >> 3] >> (self.end_id & 7) & 1:
            for id in ends or ([] if bits.any() else [self.end_id]):
                bits[id >> 3] |= 1 << (id & 7)
        if not bits.any():
            hint = "it may ask for a control token or a control character"
            raise InvalidRequestError("the grammar allows no token at this point of the answer", hint=hint)
        return Allowed(bits)


Step = tuple[Allowed, int | None]
"""What may come at a place, and the guess behind which the next step lies."""


class Matcher:
    """Follows the tokens of one choice.

    A stop id that is a control token is allowed where the text is complete, and only there. One that is text
    is text to the grammar. Without any (`ignore_eos`) the answer goes on as long as it can.

    `shared` and `alone` give matchers before their first token, see `Constraint`; `first` is the mask there.
    json_behind: the text behind which all is JSON, None where nothing has to be.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        shared: Callable[[], llguidance.LLMatcher],
        alone: Callable[[], llguidance.LLMatcher],
        first: bytes,
        jobs: Jobs,
        stop_ids: Iterable[int],
        json_behind: str | None,
    ) -> None:
        self._vocabulary = vocabulary
        self._alone = alone
        self._matcher = shared()
        self._jobs = jobs
        self._ends = [id for id in stop_ids if vocabulary.control[id]]
        self._taken: list[int] = []
        self._worn = True  # whether the matcher may have looked at more than the answer
        self._spent = 0.0
        self._job: Job | None = None
        self._json_behind = (json_behind or "").encode()
        self._spelled: State = None if json_behind is None else (b"" if json_behind else False)
        self._ahead: deque[Step] = deque(self._steps([first], ()))

    def prepare(self, draft: Sequence[int] = ()) -> None:
        """Find out, in another thread, what may come next and behind each token of a draft."""
        if not self._ahead:
            guesses = list(draft)
            self._job = self._jobs.submit(lambda: self.look_ahead(guesses))

    def allowed(self) -> Allowed:
        """The ids that may come next, at least one. InvalidRequestError where there is none."""
        if not self._ahead:
            if self._job is None:
                self.prepare()
            assert self._job is not None
            job, self._job = self._job, None
            self._ahead.extend(job.result())
        return self._ahead[0][0]

    def ahead(self) -> list[Allowed]:
        """The same, and what may come behind each token of the prepared draft, as far as is known."""
        self.allowed()
        return [allowed for allowed, _ in self._ahead]

    def accept(self, token: int) -> bool:
        """Take an allowed token; whether the answer ends with it, since nothing can follow."""
        _, guess = self._ahead.popleft()
        if guess != token:
            self._ahead.clear()
        if self._vocabulary.control[token]:
            return True
        taken = self._matcher.consume_token(token) or (self._rebuilt() and self._matcher.consume_token(token))
        if not taken:
            raise self._failure()
        self._taken.append(token)
        self._spelled = self._after(self._spelled, token)
        return self._matcher.is_stopped()

    def fitting(self, draft: Sequence[int]) -> list[int]:
        """The tokens of a draft, from its first on, that the grammar takes."""
        control = self._vocabulary.control
        text = next((i for i, token in enumerate(draft) if control[token]), len(draft))
        if text == 0 or self._too_slow:
            return []
        began = time.thread_time()
        self._worn = True
        count = self._matcher.validate_tokens(list(draft[:text]))
        self._spent += time.thread_time() - began
        return list(draft[:count])

    def forced(self) -> list[int]:
        """Tokens that spell what must come next: the likeliest way to write it, though not the only one."""
        if self._too_slow:
            return []
        began = time.thread_time()
        self._worn = True
        tokens = self._matcher.compute_ff_tokens()
        self._spent += time.thread_time() - began
        return tokens

    def look_ahead(self, draft: Sequence[int]) -> list[Step]:
        """What may come next, and behind each token of a draft as far as it can be told: a job's work."""
        began = time.thread_time()
        matcher = self._matcher
        mask = matcher.compute_bitmask()
        if matcher.is_error() and self._rebuilt():
            matcher = self._matcher
            mask = matcher.compute_bitmask()
        if matcher.is_error():
            raise self._failure()
        self._worn = True
        masks, taken = [mask], 0
        for guess in draft:
            if matcher.try_consume_tokens([guess]) != 1:
                break
            taken += 1
            if matcher.is_stopped():
                break  # the answer ends here, or the grammar cannot be followed behind this guess
            masks.append(matcher.compute_bitmask())
            if matcher.is_error():
                masks.pop()
                break
        if (matcher.is_error() or (taken and not matcher.rollback(taken))) and not self._rebuilt():
            raise self._failure()
        self._spent += time.thread_time() - began
        if self._too_slow:
            raise _too_slow()
        return self._steps(masks, draft)

    def _steps(self, masks: Sequence[bytes], draft: Sequence[int]) -> list[Step]:
        steps: list[Step] = []
        spelled = self._spelled
        for i, mask in enumerate(masks):
            try:
                allowed = self._vocabulary.allowed(mask, self._ends, spelled)
            except InvalidRequestError:
                if i == 0:
                    raise
                break
            steps.append((allowed, draft[i] if i < len(draft) else None))
            spelled = self._after(spelled, draft[i]) if i < len(draft) else spelled
        return steps

    def _after(self, spelled: State, token: int) -> State:
        return self._vocabulary.spelling.after(spelled, token, self._json_behind)

    def _rebuilt(self) -> bool:
        """Begin again with nothing but the answer; False if that is no other matcher, or not possible.

        What was looked at, by other answers too, has used up a part of the limits. Whether an answer can go
        on must not depend on it.
        """
        if not self._worn:
            return False
        self._matcher = self._alone()
        self._worn = False
        return not self._taken or self._matcher.consume_tokens(self._taken)

    @property
    def _too_slow(self) -> bool:
        return self._spent > SECONDS + SECONDS_A_TOKEN * len(self._taken)

    def _failure(self) -> GemletError:
        reason = " ".join(self._matcher.get_error().split())[:300]
        return InvalidRequestError(f"the grammar cannot be followed any further: {reason}")


def _too_slow() -> InvalidRequestError:
    return InvalidRequestError("the grammar is too slow to follow", hint="make it simpler")
