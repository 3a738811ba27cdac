"""What must not be in the files: turn markers outside their home, unfinished work, places of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repo.sources import ROOT, files, name

# Written in pieces, so that this file is not one of the places it looks for.
TURN_MARKERS = re.compile("<(start|end)_of_" + "turn>")
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + r"Error)\b")
PLACES = re.compile(
    "(?<![A-Za-z0-9_.~-])/(" + r"work|root|farm|home/\w+)/" + r"|pypi\.org/" + r"simple|registry\.np" + "mjs"
    r"|deb\.deb" + "ian|index-" + "url"
)
TEXT = (".py", ".md", ".toml", ".txt", ".sh", ".cc", ".h", ".inl", ".yaml", ".json", ".jsonl", "")


def matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_turn_markers_have_one_home() -> None:
    homes = {found.split(":")[0] for found in matches(TURN_MARKERS, files(".py", under="src"))}
    assert homes == {"src/gemlet/text/template.py"}


def test_native_code_knows_no_model() -> None:
    named = matches(re.compile(r"gemma|llama", re.IGNORECASE), files(".cc", ".h", ".inl", under="native"))
    assert not named, "\n".join(named)


def test_only_the_binding_includes_nanobind() -> None:
    including = matches(re.compile(r"#\s*include\s*[<\"](nanobind|Python\.h)"), files(".cc", ".h", ".inl"))
    assert {found.split(":")[0] for found in including} == {"src/binding/module.cc"}


def test_nothing_is_unfinished() -> None:
    found = matches(UNFINISHED, files(".py", ".cc", ".h", ".inl", ".sh", ".toml", ""))
    assert not found, "\n".join(found)


def test_no_place_of_one_machine_and_no_registry() -> None:
    found = matches(PLACES, [path for path in files(*TEXT) if name(path) != "LICENSE"])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["cd /wo" + "rk/x", "x=/ro" + "ot/y", "https://py" + "pi.org/simple"])
def test_a_place_is_found(line: str) -> None:
    assert PLACES.search(line)


@pytest.mark.parametrize("line", ["the frame/work/flow", "https://a.b/work/c", "~/work/x", "homework"])
def test_a_word_is_not_a_place(line: str) -> None:
    assert not PLACES.search(line)


def test_files_end_with_one_newline() -> None:
    sources = files(".py", ".cc", ".h", ".inl", ".md")
    wrong = [name(path) for path in sources if not re.search(r"(\A|\S\n)\Z", path.read_text())]
    assert not wrong


def test_licence_and_notice() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    terms = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert terms in (ROOT / "NOTICE").read_text().splitlines()
