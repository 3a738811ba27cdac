"""Engines behind one set of measurements, here and in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gemlet.errors import GemletError
from gemlet.evaluate.engine_process import EngineProcess
from gemlet.evaluate.engines import Gemlet, MissingPeerError, check_peer, random_ids
from gemlet.evaluate.speed import first_byte

IDS = [300 + i % 200 for i in range(200)]


def test_every_call_measures(tiny_model: Path) -> None:
    engine = Gemlet(tiny_model, 1, 4096)
    assert engine.prefill(IDS) > 0
    assert len(engine.decode(IDS[:3])) == 3
    assert engine.memory()["kv"] > 0 and engine.memory()["weights"] > 0
    assert len(engine.streams(2, IDS[:4])) == 4
    times = engine.answer(IDS[:8], 5)
    assert len(times) == 5 and all(seconds > 0 for seconds in times)
    assert len(engine.decode(IDS[:2])) == 2  # the answer did not touch the sequence
    engine.close()


def test_the_process_answers_the_same_calls(tiny_model: Path) -> None:
    with EngineProcess("gemlet", tiny_model, 1, 4096) as engine:
        assert engine.seconds_to_load > 0 and "weights" in engine.details
        assert engine.call("prefill", IDS) > 0
        assert len(engine.call("decode", IDS[:3])) == 3
        assert engine.call("step_work", 0, 1)["bytes"] > 0
        assert engine.call("memory")["resident"] > 1 << 20
        with pytest.raises(GemletError, match="no call"):
            engine.call("close")


def test_what_the_engine_says_is_raised(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GemletError, match=r"broken\.gguf"):
        EngineProcess("gemlet", tmp_path / "broken.gguf", 1, 64)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_dies_is_an_error(tiny_model: Path) -> None:
    with (
        pytest.raises(GemletError, match="ended without an answer"),
        EngineProcess("gemlet", tiny_model, 1, 64) as engine,
    ):
        os.kill(engine._process.pid, signal.SIGKILL)
        engine.call("prefill", IDS)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_leaves_no_process(tiny_model: Path) -> None:
    with pytest.raises(KeyboardInterrupt), EngineProcess("gemlet", tiny_model, 1, 64) as engine:
        os.kill(
            engine._process.pid, signal.SIGINT
        )  # as a terminal sends it to all: only the parent acts on it
        time.sleep(0.05)
        assert engine._process.poll() is None
        raise KeyboardInterrupt
    assert engine._process.poll() is not None


def test_a_missing_peer_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPeerError, match="pip install") as caught:
        check_peer()
    assert caught.value.exit_code == 6


def test_ids_are_ordinary_and_repeatable() -> None:
    ids = random_ids(100, 3, 1000)
    assert ids == random_ids(100, 3, 1000) and len(set(ids)) > 50
    assert all(250 <= token < 750 for token in ids)


def test_the_first_byte_is_awaited() -> None:
    command = [sys.executable, "-c", "import time; print('x', flush=True); time.sleep(0.5)"]
    began = time.perf_counter()
    assert first_byte(command) <= time.perf_counter() - began - 0.5
    with pytest.raises(GemletError, match="code 3: why"):
        first_byte([sys.executable, "-c", "import sys; sys.stderr.write('why'); sys.exit(3)"])
