"""What the publisher of Gemma 3 states or ships, as data to compare with: shapes, digests, the citations.

Shapes are those of config.json of google/gemma-3-1b-it (its hash is in `releases`) and of the 270M. Digests
were computed from the tokenizer.json with the sha256 4667f208… and, with the same result, from a GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PIECES_SHA256 = "c48a25fc260a7ed4dbbee2c63aaf5aa04dfad0d1b72b53e6164e01f4500544f4"
"""Of the 262,144 pieces joined by newlines, spaces as U+2581, UTF-8."""

SCORES_SHA256 = "a623c5b61425cbb60c7d82392c096bcf4c673dc4c6e4ac549334332a3b366beb"
"""Of the scores of the ordinary pieces as GGUF files hold them: float32, little-endian."""

TEMPLATE_SHA256 = "7de1c58e208eda46e9c7f86397df37ec49883aeece39fb961e0a6b24088dd3c4"
"""Of the chat template's text, UTF-8 (the stored text ends in a newline; without it counts as equal)."""

SPECIAL_IDS = {"bos": 2, "eos": 1, "unknown": 3, "padding": 0}
END_OF_TURN = 106
IMAGE_TOKEN = 262144
WINDOW = 512
CONTEXT = 32768


@dataclass(frozen=True)
class Published:
    """A published model. `parameters`: weights in all; `training_tokens`: as its card says."""

    name: str
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    parameters: int
    training_tokens: str


PUBLISHED: Mapping[str, Published] = {
    "1b": Published("Gemma 3 1B", 1152, 26, 6912, 4, 1, 999_885_952, "2 trillion"),
    "270m": Published("Gemma 3 270M", 640, 18, 2048, 4, 1, 268_098_176, "6 trillion"),
}

CLASS_DEFAULTS: Mapping[str, int] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
}
"""What transformers puts in for a key that config.json leaves out: right for no 1B or 270M."""

CARD_URL = "https://ai.google.dev/gemma/docs/core/model_card_3"
TOKENIZER_URL = (
    "https://github.com/google/gemma_pytorch/blob/014acb7ac4563a5f77c76d7ff98f31b568c16508/"
    "tokenizer/gemma3_cleaned_262144_v2.spiece.model"
)
CONFIGURATION_SOURCE = "config.json of google/gemma-3-1b-it, and the shapes of google/gemma-3-270m"
REPORT_ARXIV = "2503.19786"
WRONG_CITATIONS: Mapping[str, str] = {
    "1911.01547": "it is On the Measure of Intelligence; the paper of the AI2 ARC benchmark is 1803.05457",
}
"""arXiv ids that the publisher's card gives for another paper, and what is right."""


def published(hidden_size: object, layers: object) -> Published | None:
    """The published model of this shape."""
    return next(
        (model for model in PUBLISHED.values() if (model.hidden_size, model.layers) == (hidden_size, layers)),
        None,
    )
