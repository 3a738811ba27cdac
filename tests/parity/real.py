"""The real Gemma 3 270M and real texts."""

from __future__ import annotations

import shlex
from pathlib import Path

_DATA = Path(__file__).resolve().parent.parent / "data"

TEXTS = {
    "prose": _DATA / "prose.txt",
    "code": Path(shlex.__file__),
    "other language": _DATA / "other_language.txt",
}
"""Texts of more than 1,024 tokens: English prose, Python from the standard library, Spanish prose."""
