"""What disturbed a measurement, from counters as systems write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemlet.machine.cgroup import throttling
from gemlet.machine.disturbance import Activity, activity, disturbances, parse_stat, throttled

QUIET = Activity(100.0, 10.0, 50.0, 0.0, 4, 5, 1.0, 7)


def later(**changes: float) -> Activity:
    """Ten seconds of four processors later, of which this process used twenty."""
    values = {"elapsed": 110.0, "own": 30.0, "busy": 70.0} | changes
    return Activity(**{**QUIET.__dict__, **values})


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (later(), ()),
        (later(busy=71.0), ()),  # 1 of 40 processor seconds: a system's ordinary life
        (later(busy=80.0), ("other processes took 25% of the processors' time",)),
        (later(stolen=4.0), ("the host gave 10% of the processors' time to other machines",)),
        (
            later(throttled=17, throttled_seconds=3.5),
            ("a CPU quota stopped this process 12 times, for 2.5 s in all",),
        ),
        (later(hot=9), ("a core was slowed down 2 times because of heat",)),
        (later(busy=None), ()),
        (later(busy=10.0), ()),  # a counter that jumped back, as after a migration
    ],
)
def test_disturbances(after: Activity, said: tuple[str, ...]) -> None:
    assert disturbances(QUIET, after) == said


def test_a_quota_alone() -> None:
    assert throttled(QUIET, QUIET) is None
    assert "2 times" in str(throttled(QUIET, later(throttled=7)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cpu  100 20 30 4000 50 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8\n", (1.63, 0.8)),
        ("intr 5\n", None),
        ("cpu 1 2\n", None),
        ("", None),
    ],
)
def test_stat(text: str, found: tuple[float, float] | None) -> None:
    assert parse_stat(text, 100) == (None if found is None else pytest.approx(found))


def test_counters_of_a_made_up_machine(tmp_path: Path) -> None:
    files = {
        "proc/stat": "cpu  100 0 0 400 0 0 0 50 0 0\n",
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/a/b/cpu.stat": "usage_usec 9\nnr_periods 9\nnr_throttled 0\nthrottled_usec 0\n",
        # The group above is the one that stops it.
        "sys/fs/cgroup/a/cpu.stat": "nr_throttled 12\nthrottled_usec 2500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = activity(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    assert found.busy == 100 / ticks and found.stolen == 50 / ticks
    assert (found.throttled, found.throttled_seconds, found.hot) == (12, 2.5, 7)


def test_version_one_counts_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,cpuacct:/g\n")
    (tmp_path / "proc/self/mountinfo").write_text("1 0 0:1 / /cg rw - cgroup cgroup rw,cpu,cpuacct\n")
    (tmp_path / "cg/g").mkdir(parents=True)
    (tmp_path / "cg/g/cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\n")
    assert throttling(tmp_path) == (4, 1.5)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    before = activity(tmp_path)
    assert before.busy is None
    assert disturbances(before, activity(tmp_path)) == ()
