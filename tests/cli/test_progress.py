"""The progress line: silent for short work, honest about what is left, gone at the end."""

from __future__ import annotations

import io

from gemlet.cli.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_short_work_shows_nothing() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress("packing", stream, clock=clock)
    for clock.now in (0.1, 0.2):
        progress(50, 100)
    progress.close()
    assert stream.getvalue() == ""


def test_long_work_shows_share_speed_and_time_left() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress("packing", stream, clock=clock)
    clock.now = 2.0
    progress(250_000_000, 1_000_000_000)
    assert stream.getvalue() == "\r\x1b[Kpacking  25 %  250 of 1000 MB, 125 MB/s, 6 s left"
    clock.now = 2.05  # too soon to be drawn again
    progress(300_000_000, 1_000_000_000)
    assert stream.getvalue().count("packing") == 1
    progress.close()
    assert stream.getvalue().endswith("left\r\x1b[K")


def test_a_second_piece_of_work_has_its_own_speed() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress("packing", stream, clock=clock)
    clock.now = 10.0
    progress(100_000_000, 100_000_000)
    progress(0, 200_000_000)
    clock.now = 11.0
    progress(50_000_000, 200_000_000)
    assert stream.getvalue().endswith("packing  25 %  50 of 200 MB, 50 MB/s, 3 s left")
