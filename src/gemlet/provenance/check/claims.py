"""What a file says of itself: instruction-tuned or pretrained, made from QAT weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Claim = Literal["chat", "base"]

_CHAT = {"it", "instruct", "chat", "instruction"}
_BASE = {"pt", "base", "pretrained"}


def words(texts: Iterable[object]) -> set[str]:
    """The lower-case words of some names."""
    return {word for text in texts for word in re.split(r"[^a-z0-9]+", str(text).lower()) if word}


def names_of(metadata: Mapping[str, Any]) -> list[str]:
    """The names that a GGUF file gives itself and what it was made from."""
    keys = ("general.name", "general.basename", "general.finetune", "general.repo_url", "general.source.url")
    found = [metadata.get(key) for key in keys]
    found += [value for key, value in metadata.items() if re.fullmatch(r"general\.base_model\.\d+\.\w+", key)]
    return [value for value in found if isinstance(value, str)]


def claim_of(metadata: Mapping[str, Any], file_name: str) -> Claim | None:
    """Whether a GGUF file claims to be a chat model or a base model; None where it does not say."""
    stated = words([metadata.get("general.finetune", "")]) or words(
        [metadata.get("general.name", ""), metadata.get("general.basename", ""), file_name]
    )
    if stated & _CHAT:
        return "chat"
    return "base" if stated & _BASE else None


def is_qat(metadata: Mapping[str, Any], file_name: str) -> bool:
    """Whether it says that it was made from QAT weights."""
    return "qat" in words([*names_of(metadata), file_name])
