"""What is known about a model apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemlet.model.config import ModelConfig
from gemlet.types import Sampling, TokenizerSource, Vocabulary


@dataclass(frozen=True, eq=False)
class Description:
    """The small part of a model's files, as they state it.

    `values` is JSON-ready; `vocabulary` is that of a GGUF file. Kept beside packed weights, understood anew
    at every start, so that the rules of the running version apply.
    """

    values: Mapping[str, Any]
    vocabulary: Vocabulary | None


@dataclass(frozen=True, eq=False)
class SourceFacts:
    """A description understood.

    `path` is the file or folder, `format` "gguf" or "huggingface". `corrections` has one line for each known
    defect of the files that was put right. `licence` is the files' own statement, None without one.
    """

    path: str
    format: str
    config: ModelConfig
    tokenizer: TokenizerSource
    chat_template: str | None
    sampling: Sampling
    corrections: tuple[str, ...]
    licence: str | None
