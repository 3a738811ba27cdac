"""What a model was made from, as its files say it."""

from __future__ import annotations

import re
from pathlib import Path

from gemlet.formats.files import map_file

_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HEAD = 4096


def base_models(folder: Path) -> list[str]:
    """The repositories that the model card's first lines name as `base_model`: a name, or a list."""
    card = folder / "README.md"
    if not card.is_file():
        return []
    text = map_file(card, at_least=0)[:_HEAD].tobytes().decode(errors="replace")
    found = re.search(rf"^base_model:[ \t]*(?:({_REPOSITORY})[ \t]*$|$)((?:\n[ \t]*-[^\n]*)*)", text, re.M)
    if found is None:
        return []
    return [found[1]] if found[1] else re.findall(rf"-[ \t]*({_REPOSITORY})", found[2])[:16]
