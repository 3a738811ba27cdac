"""What `gemlet tune` shows while it trains: one line that moves, with the loss as a little curve."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from gemlet.cli.terminal import is_screen, note

if TYPE_CHECKING:
    from gemlet.tune.job import Forecast
    from gemlet.tune.train import Progress

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 24
_ERASE = "\r\x1b[K"
_PAUSE_S = 30.0
"""Between lines where there is no screen."""


class TrainingProgress:
    """Told of the forecast and of every step; silent when `quiet`."""

    def __init__(self, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._screen = quiet, is_screen(self._stream)
        self._losses: list[float] = []
        self._valid: float | None = None
        self._said = 0.0

    def forecast(self, forecast: Forecast) -> None:
        """What the run will take, as a few timed steps have it."""
        if not self._quiet:
            note(
                f"{forecast.steps} steps, {forecast.tokens:,} tokens at {forecast.tokens_per_s:,.0f} a "
                f"second: about {duration(forecast.seconds)}, {forecast.memory_bytes / 1e9:.1f} GB of "
                f"memory, {forecast.disk_bytes / 1e6:,.0f} MB of disk"
            )

    def step(self, progress: Progress) -> None:
        if progress.loss is not None:
            self._losses.append(progress.loss)
        if self._quiet:
            return
        if progress.valid_loss is not None:
            self._valid = progress.valid_loss
            self.close()
            note(f"step {progress.step}: loss on held-out examples {progress.valid_loss:.4f}")
            return
        now = time.monotonic()
        if self._screen:
            self._stream.write(_ERASE + self._line(progress))
            self._stream.flush()
        elif now - self._said >= _PAUSE_S or progress.step == progress.steps:
            self._said = now
            note(self._line(progress))

    def close(self) -> None:
        """Remove the moving line."""
        if self._screen and not self._quiet and self._losses:
            self._stream.write(_ERASE)
            self._stream.flush()

    def _line(self, progress: Progress) -> str:
        return (
            f"step {progress.step} of {progress.steps}  loss {self._losses[-1]:.3f} {curve(self._losses)}  "
            f"{progress.tokens_per_s:,.0f} tokens/s  {duration(progress.seconds_left)} left"
        )


def curve(values: list[float], width: int = _WIDTH) -> str:
    """The values as a line of bars, the mean of neighbours where there are more than fit."""
    count = min(width, len(values))
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(_BARS[int((mean - low) / (span or 1.0) * (len(_BARS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes, rest = divmod(round(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
