"""One line of progress on standard error, for what takes seconds once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_ERASE = "\r\x1b[K"


class Progress:
    """Call it with bytes done and bytes in all; `close` removes the line. Nothing is shown for short work.

    Where the bytes done become fewer, another piece of work has begun, with a speed of its own.
    """

    def __init__(
        self, label: str, stream: TextIO, *, delay_s: float = 0.3, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._stream = stream
        self._delay = delay_s
        self._clock = clock
        self._started = clock()
        self._shown_at: float | None = None
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if done < self._done:
            self._started = now
        self._done = done
        since = now - (self._started if self._shown_at is None else self._shown_at)
        if since < (self._delay if self._shown_at is None else 0.1):
            return
        self._shown_at = now
        self._stream.write(_ERASE + self._line(done, total, now - self._started))
        self._stream.flush()

    def close(self) -> None:
        """Remove the line, if one was shown."""
        if self._shown_at is not None:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._shown_at = None

    def _line(self, done: int, total: int, elapsed_s: float) -> str:
        rate = done / elapsed_s if elapsed_s > 0 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        share = 100 * done / total if total else 100.0
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s"
        return f"{self._label} {share:3.0f} %  {amount}{left}"
