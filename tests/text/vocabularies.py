"""The tiny tokenizer of the other tests, as each kind of file that a vocabulary comes in."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.text.tokenizer import Tokenizer
from gemlet.types import TokenizerSource, Vocabulary
from tests.synthetic_tokenizer import tiny_tokenizer, tiny_vocabulary

SIZE = 1000
SPACE = "\u2581"


@functools.cache
def tiny() -> Tokenizer:
    return Tokenizer.from_sentencepiece(tiny_tokenizer(SIZE))


def vocabulary(pieces: list[bytes], scores: list[float], types: list[int]) -> Vocabulary:
    return Vocabulary(
        text=np.frombuffer(b"".join(pieces), np.uint8),
        ends=np.cumsum([len(piece) for piece in pieces]).astype(np.int64),
        scores=np.array(scores, np.float32),
        types=np.array(types, np.int32),
    )


def gguf_source(**changes: Any) -> TokenizerSource:
    pieces, scores, types = tiny_vocabulary(SIZE)
    values: dict[str, Any] = {
        "kind": "gguf",
        "path": "model.gguf",
        "sha256": "0" * 64,
        "bos_id": 2,
        "unknown_id": 3,
        "add_space_prefix": False,
        "vocabulary": vocabulary([piece.encode() for piece in pieces], list(scores), list(types)),
    }
    return TokenizerSource(**(values | changes))


def json_document() -> dict[str, Any]:
    """What a converter to tokenizer.json makes of the vocabulary: every possible merge, best piece first."""
    pieces, scores, types = tiny_vocabulary(SIZE)
    names = [piece.replace(" ", SPACE) for piece in pieces]
    vocab = {name: i for i, name in enumerate(names)}
    merges = []
    ordinary = [i for i in range(SIZE) if types[i] == 1]
    for name in (names[i] for i in sorted(ordinary, key=lambda i: -scores[i])):
        splits = [(name[:k], name[k:]) for k in range(1, len(name))]
        merges += [[a, b] for a, b in splits if a in vocab and b in vocab]
    added = [
        {"id": i, "content": names[i], "special": types[i] == 3, "normalized": False}
        for i in range(SIZE)
        if types[i] in (3, 4)
    ]
    added.append({"id": SIZE, "content": "<image_soft_token>", "special": True, "normalized": False})
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "added_tokens": added,
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": vocab,
            "merges": merges,
        },
    }


def json_source(folder: Path, document: dict[str, Any]) -> TokenizerSource:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document))
    return TokenizerSource(kind="tokenizer-json", path=str(path), sha256="1" * 64, bos_id=2)


def model_source(folder: Path, data: bytes) -> TokenizerSource:
    path = folder / "tokenizer.model"
    path.write_bytes(data)
    return TokenizerSource(kind="sentencepiece", path=str(path), sha256="2" * 64, bos_id=2)
