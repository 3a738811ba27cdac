"""Ways out of a call: closing, forgetting, interrupting, failing. Nothing keeps running, nobody waits."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from gemlet.errors import GemletError, ModelClosedError
from gemlet.types import Completion
from tests.infer.fake_model import fake_decoder, fake_model

PROMPT = "The area of a wide room"


def idle(model, seconds=10.0):
    deadline = time.monotonic() + seconds
    while model._engine.counts() != (0, 0):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.parametrize("how", ["close", "with", "forget", "throw"])
def test_leaving_a_stream_cancels_it(how):
    decoder = fake_decoder(delay=0.005)
    with fake_model(decoder) as model:
        events = model.generate(PROMPT, max_tokens=None, ignore_eos=True, stream=True)
        next(events)
        if how == "close":
            events.close()
            assert list(events) == []
        elif how == "with":
            with events:
                next(events)
        elif how == "throw":
            with pytest.raises(ZeroDivisionError), events:
                raise ZeroDivisionError
        else:
            del events
            gc.collect()
        assert idle(model)
        assert len(decoder.steps) < 100


def test_a_stream_keeps_its_model_open():
    events = fake_model().generate(PROMPT, max_tokens=20, ignore_eos=True, stream=True)
    gc.collect()
    assert len(list(events)) == 20


def test_an_interrupted_call_cancels_its_request(monkeypatch):
    decoder = fake_decoder(delay=0.005)
    with fake_model(decoder) as model:
        taken = []

        def interrupt(self, event):
            taken.append(event)
            if len(taken) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr("gemlet.infer.answer.Answer.take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.generate(PROMPT, max_tokens=None, ignore_eos=True)
        assert idle(model)


def test_a_failed_step_reaches_the_caller():
    decoder = fake_decoder()

    def fail(batch):
        raise MemoryError("no room")

    decoder.fail = fail
    with fake_model(decoder) as model:
        with pytest.raises(GemletError, match="MemoryError: no room"):
            model.generate(PROMPT)
        with pytest.raises(GemletError, match="no room"):
            list(model.generate(PROMPT, stream=True))
        with pytest.raises(GemletError, match="no room"):
            model.score("a", " b")


def test_close_ends_what_runs():
    model = fake_model(fake_decoder(delay=0.005))
    done: list[Completion] = []
    thread = threading.Thread(
        target=lambda: done.append(model.generate(PROMPT, max_tokens=None, ignore_eos=True))
    )
    thread.start()
    while model._engine.counts() != (0, 1):
        time.sleep(0.001)
    model.close()
    model.close()
    thread.join(10)
    assert done[0].finish_reason == "cancelled" and done[0].stop_reason is None
    for call in (lambda: model.generate("x"), lambda: model.logits([2]), lambda: model.score("a", " b")):
        with pytest.raises(ModelClosedError):
            call()
