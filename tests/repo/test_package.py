"""One sdist, one wheel from it, installed where there is nothing else: it holds what it must and runs."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.repo.sources import ROOT, files, name
from tests.synthetic import tiny_config, write_tiny_gguf

DEPENDENCIES = ("numpy", "sentencepiece", "safetensors")


def build(kind: str, source: Path, out: Path) -> Path:
    """Build with the backend that is installed here: nothing is downloaded."""
    command = [
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        str(out),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, its three dependencies and not even pip."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    for dependency in DEPENDENCIES:
        distribution = importlib.metadata.distribution(dependency)
        tops = {path.parts[0] for path in distribution.files or [] if ".." not in path.parts}
        for top in tops - {"__pycache__"}:
            (packages / top).symlink_to(str(distribution.locate_file(top)))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin"


def run(installed: Path, *command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In an environment without compiler or anything else on PATH, outside the project's folder."""
    environment = {"PATH": str(installed), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=home, env=environment, capture_output=True, text=True
    )


def test_the_sdist_is_the_project_and_nothing_else(unpacked: Path) -> None:
    packed = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    tracked = {name(path) for path in files()}
    assert packed - tracked == {"PKG-INFO"}
    needed = {file for file in tracked if file.startswith(("src/", "native/", "tests/"))}
    assert needed | {"pyproject.toml", "CMakeLists.txt", "LICENSE", "NOTICE", "README.md"} <= packed


def test_the_wheel_holds_the_package_its_types_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(file for file in names if file.endswith(".dist-info/METADATA"))).decode()
    sources = {name(path).removeprefix("src/") for path in files(under="src/gemlet")}
    assert sources <= names
    extra = {file for file in names - sources if ".dist-info/" not in file}
    assert len(extra) == 1 and extra.pop().startswith("gemlet/ops/_native.")
    assert "gemlet/py.typed" in names
    assert {"LICENSE", "NOTICE"} <= {Path(file).name for file in names if "/licenses/" in file}
    assert "License-Expression: Apache-2.0" in metadata
    required = [line.split(":")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    always = {line.split(">")[0].strip() for line in required if "extra ==" not in line}
    assert always == set(DEPENDENCIES)


def test_it_imports_and_shows_a_model_with_three_dependencies(installed: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_gguf(model, tiny_config(), np.random.default_rng(0), "Q4_0")
    where = run(installed, "python", "-c", "import gemlet; print(gemlet.__file__)", home=tmp_path)
    assert where.returncode == 0, where.stderr
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    native = run(installed, "python", "-c", "import gemlet.ops._native", home=tmp_path)
    assert native.returncode == 0, native.stderr
    shown = run(installed, "gemlet", "show", str(model), home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Q4_0" in shown.stdout.upper()
    assert os.fspath(tmp_path) not in shown.stderr


def test_it_answers_with_three_dependencies(installed: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_gguf(model, tiny_config(), np.random.default_rng(0), "Q4_0")
    command = ["gemlet", "run", "-m", str(model), "--raw", "-n", "4", "--json", "hello"]
    answered = run(installed, *command, home=tmp_path)
    assert answered.returncode == 0, answered.stderr
    assert '"finish_reason"' in answered.stdout
