"""The terms that weights are under: gemlet is free software, the weights are not part of it."""

from __future__ import annotations

from pathlib import Path

from gemlet.cli.terminal import note

TERMS = {"gemma": "the Gemma Terms of Use: ai.google.dev/gemma/terms"}
"""What a licence named in a file is, in words, and where it can be read."""


def say_terms(licence: str, cache: Path, *, again: bool) -> None:
    """One line on the terms, the first time on this machine or, with `again`, every time."""
    mark = cache / f"terms-{licence}"
    if licence not in TERMS or (mark.exists() and not again):
        return
    note(f"the weights are under {TERMS[licence]}")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # nowhere to remember it: it will be said again
        return
