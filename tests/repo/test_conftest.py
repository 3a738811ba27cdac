"""The suite's own rules: no test reaches a network, and CI accepts no skipped test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.sources import ROOT


def outcome(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under the suite's conftest."""
    shutil.copy(ROOT / "tests/conftest.py", folder)
    (folder / "test_it.py").write_text(f"import pytest\n{test}\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(folder),
    ]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "test",
    [
        "def test_it(): pytest.skip('no tool')",
        "pytest.importorskip('no_such_module')",
        "@pytest.mark.skipif(True, reason='elsewhere')\ndef test_it(): pass",
    ],
)
def test_a_skipped_test_fails_in_ci_only(tmp_path: Path, test: str) -> None:
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    in_ci = outcome(tmp_path, test, "true")
    assert in_ci.returncode == pytest.ExitCode.TESTS_FAILED, in_ci.stdout
    assert "CI accepts no skipped tests: 1 skipped" in in_ci.stdout
    assert outcome(tmp_path, test, "").returncode == pytest.ExitCode.OK


def test_a_passing_test_passes_in_ci(tmp_path: Path) -> None:
    assert outcome(tmp_path, "def test_it(): pass", "true").returncode == pytest.ExitCode.OK


def test_the_network_is_out_of_reach() -> None:
    with socket.socket() as out, pytest.raises(AssertionError, match="tried to reach"):
        out.connect(("192.0.2.1", 80))


def test_this_machine_is_not() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()
