"""How an engine ends: closed, forgotten, forked, or with the interpreter."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref

import pytest

from gemlet.errors import ModelClosedError
from gemlet.infer.engine import Engine
from gemlet.infer.requests import PromptRequest
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
