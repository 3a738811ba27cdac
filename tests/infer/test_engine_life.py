"""How an engine ends: closed, forgotten, forked, or with the interpreter."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from gemlet.errors import ModelClosedError
from gemlet.infer.engine import Engine
from gemlet.infer.requests import PromptRequest
from gemlet.types import Sampling
from tests.infer.fakes import FakeDecoder
from tests.infer.naive import Running
from tests.infer.test_engine import answer


def test_close_ends_running_requests_and_is_idempotent():
    decoder = FakeDecoder(delay=0.005)
    engine = Engine(decoder)
    running = Running.submit(engine, answer([2], 200, stop_ids=frozenset()))
    waiting = Running.submit(engine, PromptRequest((2, 3), (1,)))
    waiting.wait()
    engine.close()
    engine.close()
    assert running.wait().ended == {0: "cancelled"}
    assert decoder.closed
    with pytest.raises(ModelClosedError):
        engine.submit(answer([2]), print)
    running.ticket.cancel()


def test_a_forgotten_engine_ends_its_thread():
    decoder = FakeDecoder()
    engine = Engine(decoder)
    Running.submit(engine, answer([2], 3)).wait()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None and decoder.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork_the_child_is_told_and_can_open_its_own():
    """In the child: use raises, close and cancel do nothing, a new engine works. The parent goes on."""
    script = """
        import os, warnings
        warnings.simplefilter("ignore")
        from gemlet.errors import ModelClosedError
        from tests.infer.test_engine import Engine, FakeDecoder, Running, answer
        decoder = FakeDecoder(delay=0.002)
        engine = Engine(decoder)
        running = Running.submit(engine, answer([2], 100, stop_ids=frozenset()))
        running.take()
        child = os.fork()
        if child == 0:
            try:
                engine.submit(answer([2]), print)
                os._exit(1)
            except ModelClosedError as error:
                assert "load it again" in str(error)
            running.ticket.cancel()
            engine.close()
            fresh = Engine(FakeDecoder())
            Running.submit(fresh, answer([2, 3])).wait().check(decoder)
            fresh.close()
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        running.wait().check(decoder)
        assert running.ended == {0: "length"}
    """
    assert run_script(script).returncode == 0


def test_the_interpreter_ends_while_requests_run():
    script = """
        from tests.infer.test_engine import Engine, FakeDecoder, Running, answer
        engine = Engine(FakeDecoder(delay=0.02))
        Running.submit(engine, answer([2], 200, stop_ids=frozenset())).take()
        print("end")
    """
    done = run_script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.getcwd()])}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)


class SpareWork:
    """Pieces of work, which count themselves and wait to be let go."""

    def __init__(self, pieces: int, fail_at: int | None = None) -> None:
        self.done = 0
        self.go, self.ended = threading.Semaphore(0), threading.Event()
        self._pieces, self._fail_at = pieces, fail_at

    def __iter__(self):
        try:
            while self.done < self._pieces:
                assert self.go.acquire(timeout=10)
                if self.done == self._fail_at:
                    raise MemoryError
                self.done += 1
                yield
        finally:
            self.ended.set()


GREEDY, SAMPLED = Sampling(temperature=0.0), Sampling(temperature=1.0)


def test_spare_work_begins_after_a_greedy_answer_and_lets_requests_through():
    work, decoder = SpareWork(4), FakeDecoder()
    engine = Engine(decoder, spare_work=iter(work))
    for _ in range(4):
        work.go.release()
    Running.submit(engine, answer([2], 3, sampling=SAMPLED)).wait().check(decoder)
    assert work.done == 0  # nobody would gain: without a greedy answer it never begins
    for _ in range(4):
        work.go.acquire()
    Running.submit(engine, answer([2], 3, sampling=GREEDY)).wait().check(decoder)
    for pieces in (1, 2):  # a piece, then a request that came meanwhile, whole, then the next piece
        running = Running.submit(engine, answer([2, 3], 3, sampling=GREEDY))
        work.go.release()
        running.wait().check(decoder)
        assert work.done <= pieces
    for _ in range(4):
        work.go.release()
    assert work.ended.wait(10) and work.done == 4
    Running.submit(engine, answer([2], 3, sampling=GREEDY)).wait().check(decoder)
    engine.close()


def test_spare_work_that_fails_changes_nothing():
    work, decoder = SpareWork(4, fail_at=1), FakeDecoder()
    engine = Engine(decoder, spare_work=iter(work))
    for _ in range(4):
        work.go.release()
    for _ in range(3):
        Running.submit(engine, answer([2], 3, sampling=GREEDY)).wait().check(decoder)
    assert work.ended.wait(10) and work.done == 1
    Running.submit(engine, answer([2], 3, sampling=GREEDY)).wait().check(decoder)
    engine.close()


def test_an_engine_closes_between_pieces_of_spare_work():
    work, decoder = SpareWork(10**9), FakeDecoder()
    engine = Engine(decoder, spare_work=iter(work))
    Running.submit(engine, answer([2], 3, sampling=GREEDY)).wait()
    closing = threading.Thread(target=engine.close)
    closing.start()
    work.go.release()  # the piece it may be in
    closing.join(10)
    assert not closing.is_alive() and decoder.closed and work.done <= 1
