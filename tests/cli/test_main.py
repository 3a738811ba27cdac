"""The command as a whole: verbs, help, versions, suggestions, start-up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gemlet.cli.main import VERBS, main, verb_parser
from gemlet.version import __version__


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gemlet {__version__}\n"


@pytest.mark.parametrize("words", [[], ["help"], ["-h"], ["--help"]])
def test_the_overview_names_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", [["help", "{}"], ["{}", "--help"], ["{}", "-h"]])
def test_every_verb_has_help_with_examples(
    verb: str, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(verb) for word in form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: gemlet {verb}")
    assert f"examples:\n  gemlet {verb}" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_is_explained(verb: str) -> None:
    assert not [action.dest for action in verb_parser(verb)._actions if not action.help]


@pytest.mark.parametrize(("word", "near"), [("chta", "chat"), ("rnu", "run"), ("configure", "config")])
def test_an_unknown_verb_suggests_the_near_one(
    word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    assert f"there is no verb '{word}'\n        did you mean: gemlet {near}" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["trial", "xyzzy", "--verbose"])
def test_a_verb_that_does_not_exist_is_unknown(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert f"there is no verb '{word}'" in capsys.readouterr().err


def test_usage_errors_can_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json", "--wrong"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["exit_code"], error["hint"]) == (
        "InvalidRequestError",
        2,
        "see: gemlet run --help",
    )
    assert "--wrong" in error["message"]


def test_python_m_gemlet_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemlet", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"gemlet {__version__}\n"


def test_what_needs_no_model_imports_nothing_heavy() -> None:
    """The time of `gemlet --version` is the time of its imports; names are counted, since times vary."""
    listing = (
        "import sys; from gemlet.cli.main import main; main(['--version']); main(['help', 'chat']);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    heavy = {
        "numpy",
        "sentencepiece",
        "rich",
        "prompt_toolkit",
        "asyncio",
        "ssl",
        "urllib.request",
        "readline",
    }
    assert not heavy & set(done.stdout.split())
