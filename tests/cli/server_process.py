"""`gemlet serve` in a process of its own, over a model small enough to reason about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

SCRIPT = """
import sys
from gemlet.cli.main import main
from tests.infer.fake_model import fake_decoder, fake_model

def load(*reference, **options):
    return fake_model(fake_decoder(delay={delay}), reference="one")

sys.exit(main(['serve', '--port', '0', *{arguments!r}], load=load))
"""

MESSAGES = [{"role": "user", "content": "The area of a wide room"}]


@dataclass
class Process:
    """A running server: where it is, and what it said so far."""

    process: subprocess.Popen[str]
    told: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        match = re.search(r"the API is at (\S+)/v1", "".join(self.told))
        assert match is not None
        return match[1]

    def says(self, words: str, seconds: float = 30) -> None:
        """Wait until it said that."""
        end = time.monotonic() + seconds
        while words not in "".join(self.told):
            assert time.monotonic() < end and self.process.poll() is None, "".join(self.told)
            time.sleep(0.02)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def ended(self, seconds: float = 20) -> tuple[int, str]:
        """The exit code and all that it said. It must have been told to end."""
        code = self.process.wait(seconds)
        end = time.monotonic() + 5
        while self.process.stderr is not None and not self.process.stderr.closed and time.monotonic() < end:
            time.sleep(0.01)
        told = "".join(self.told)
        assert "Traceback" not in told, told
        return code, told


@contextmanager
def served(*arguments: str, delay: float = 0.0, **environment: str) -> Iterator[Process]:
    """A server that is ready. `delay`: seconds that each of its model's steps takes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(delay=delay, arguments=arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    server = Process(process)

    def read() -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                server.told.append(line)

    threading.Thread(target=read, daemon=True).start()
    try:
        server.says("the API is at")
        yield server
    finally:
        process.kill()
        process.wait(10)
