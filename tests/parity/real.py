"""The real Gemma 3 270M, and real texts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gemlet.model.config import ModelConfig
from gemlet.model.weights import Loaded, Weights, load
from gemlet.store.embedded import embedded_model
from gemlet.text.tokenizer import Tokenizer

_DATA = Path(__file__).resolve().parent.parent / "data"

TEXTS = {
    "prose": _DATA / "prose.txt",
    "code": Path(shlex.__file__),
    "other language": _DATA / "other_language.txt",
}
"""Texts of more than 1,024 tokens: English prose, Python from the standard library, Spanish prose."""


@dataclass(frozen=True)
class Real:
    """The model of the `demo` extra, loaded as everywhere; its packed weights are kept in `cache_dir`."""

    cache_dir: Path
    file: Path | None = None
    """Another GGUF file in its place."""

    @cached_property
    def path(self) -> Path:
        return self.file or embedded_model(self.cache_dir)

    @cached_property
    def loaded(self) -> Loaded:
        return load(self.path, cache_dir=self.cache_dir)

    @property
    def config(self) -> ModelConfig:
        return self.loaded.facts.config

    @property
    def weights(self) -> Weights:
        return self.loaded.weights

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_source(self.loaded.facts.tokenizer, self.cache_dir)

    def ids(self, text: str, count: int) -> list[int]:
        """The first `count` token ids, BOS included, of one of TEXTS."""
        ids = self.tokenizer.encode(TEXTS[text].read_text(encoding="utf-8"), bos=True)
        if len(ids) < count:
            raise ValueError(f"{text} has {len(ids)} tokens, not {count}")
        return ids[:count]
