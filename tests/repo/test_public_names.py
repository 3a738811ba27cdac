"""The public surface: short, complete, and with one version."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import gemlet
from gemlet import errors
from tests.repo.sources import PACKAGE, files, name

NAMES = {"load", "Model", "Message", "Sampling", "Completion", "TokenEvent", "Score", "__version__"}


def test_public_names() -> None:
    tree = {
        key for key, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(gemlet.__all__) == NAMES | tree
    assert all(hasattr(gemlet, key) for key in gemlet.__all__)
    assert set(gemlet.__all__) <= set(dir(gemlet))


def test_every_error_is_one_of_the_tree_and_has_its_own_exit_code() -> None:
    tree = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert all(issubclass(error, errors.GemletError) for error in tree)
    assert all(1 <= error.exit_code < 126 and 400 <= error.http_status < 600 for error in tree)


def test_the_package_is_typed() -> None:
    assert (Path(gemlet.__file__).parent / "py.typed").is_file()
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_written_once() -> None:
    assert gemlet.__version__ == importlib.metadata.version("gemlet")
    number = re.compile(
        rf"""(version[_"']*\s*[=:]\s*["']){re.escape(gemlet.__version__)}["']""", re.IGNORECASE
    )
    places = [
        name(path)
        for path in files(".py", ".toml", ".txt", ".cc", ".h", ".inl", ".json")
        if not name(path).startswith("benchmarks/results/") and number.search(path.read_text())
    ]
    assert places == ["src/gemlet/version.py"]
