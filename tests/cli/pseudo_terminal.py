"""A program in a pseudo-terminal: type, wait for what it prints, see how it ends."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class PseudoTerminal:
    """Runs gemlet, by default with a fake model. `screen`: everything printed, with its control sequences."""

    def __init__(
        self, *words: str, delay_s: float = 0.0, answer: str = "Fine.", columns: int = 80, fake: bool = True
    ) -> None:
        program = ["tests.cli.fake_model", str(delay_s), answer] if fake else ["gemlet"]
        outer, inner = pty.openpty()
        ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("NO_COLOR", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *program, *words],
            stdin=inner, stdout=inner, stderr=inner, cwd=ROOT, env=environment, start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(inner)
        self._outer = outer
        self.screen = ""
        self._seen = 0

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._outer)

    def type(self, text: str) -> None:
        """Send keys."""
        os.write(self._outer, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, half a second after what was waited for: readline misses one right after its prompt."""
        time.sleep(0.5)
        self.type("\x03")

    def wait_for(self, text: str, seconds: float = 20.0) -> float:
        """Read until the text appears after what was waited for before; returns the seconds it took."""
        started = time.monotonic()
        while text not in self.screen[self._seen :]:
            assert time.monotonic() - started < seconds, f"no {text!r} in {self.screen!r}"
            assert self._read(0.1), f"ended without {text!r}: {self.screen!r}"
        self._seen = self.screen.index(text, self._seen) + len(text)
        return time.monotonic() - started

    def wait_for_any(self, seconds: float = 20.0) -> None:
        """Read until anything is printed."""
        started = time.monotonic()
        while not self.screen:
            assert time.monotonic() - started < seconds, "nothing is printed"
            assert self._read(0.1), "ended without printing"

    def end(self, seconds: float = 20.0) -> int:
        """Read to the end and return the exit code."""
        until = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < until, f"does not end: {self.screen!r}"
        return self._process.wait()

    def _read(self, seconds: float) -> bool:
        """Take what is printed; False when the program has ended and everything is read."""
        if not select.select([self._outer], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._outer, 65536)
        except OSError:  # on Linux, how a terminal says that its last user has gone
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)
