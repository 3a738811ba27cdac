"""Gemma 3's own tokenizer.json as an oracle, through the `tokenizers` library, and as gemlet reads it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tokenizers

from gemlet.text.pieces import is_control_name
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import TokenizerSource


@functools.cache
def ours(folder: Path) -> Tokenizer:
    path = str(folder / "tokenizer.json")
    return Tokenizer.from_source(TokenizerSource("tokenizer-json", path, sha256="", bos_id=2))


@functools.cache
def reference(folder: Path) -> tokenizers.Tokenizer:
    """The oracle, which reads control strings in a text as control tokens."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@functools.cache
def reference_without_control(folder: Path) -> tokenizers.Tokenizer:
    """The oracle for text that nobody may put control tokens into."""
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"] = [t for t in document["added_tokens"] if not is_control_name(t["content"])]
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def chat_template(folder: Path) -> str:
    configuration: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = configuration["chat_template"]
    assert isinstance(template, str)
    return template
