"""The tokenizer of a model as the files of a transformers folder: copied, or made from a GGUF vocabulary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.convert.byte_tokenizer import byte_tokenizer_json
from gemlet.formats.files import map_file
from gemlet.model.sources import Source
from gemlet.text.byte_level import Pieces as BytePieces
from gemlet.text.byte_level import read_byte_pieces
from gemlet.text.pieces import CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, Pieces, checked, write_model
from gemlet.text.vocabulary import read_pieces

COPIED = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
TEMPLATE = "chat_template.jinja"

_SPECIAL = re.compile(r"<(pad|eos|bos|unk|(start|end)_of_[a-z]+)>")
"""The control pieces that transformers leaves out with `skip_special_tokens`."""


def tokenizer_files(source: Source) -> dict[str, bytes]:
    """Names and contents of the files that hold the tokenizer and the chat template.

    Those of a folder are copied. For a GGUF source both tokenizer.model and tokenizer.json are made, with
    equal ids; for a byte-level BPE tokenizer.json alone. Raises ModelFileError for a vocabulary that cannot
    be, InvalidRequestError for one that these files cannot hold.
    """
    folder, tokenizer = Path(source.facts.path), source.facts.tokenizer
    if source.facts.format == "huggingface":
        names = [name for name in COPIED if (folder / name).exists()]
        files = {name: map_file(folder / name).tobytes() for name in names}
    elif tokenizer.algorithm == "byte-bpe":
        byte_pieces = read_byte_pieces(tokenizer)
        files = {
            "tokenizer.json": json.dumps(byte_tokenizer_json(byte_pieces), ensure_ascii=False).encode(),
            "tokenizer_config.json": _json(_byte_tokenizer_config(source, byte_pieces)),
        }
    else:
        pieces = checked(tokenizer.path, read_pieces(tokenizer))
        files = {
            "tokenizer.model": write_model(pieces),
            "tokenizer.json": json.dumps(tokenizer_json(pieces), ensure_ascii=False).encode(),
            "tokenizer_config.json": _json(_tokenizer_config(source, pieces)),
        }
    if source.facts.chat_template is not None:
        files[TEMPLATE] = source.facts.chat_template.encode()
    return files


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _tokenizer_config(source: Source, pieces: Pieces) -> dict[str, Any]:
    config = source.config
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": pieces.names[config.bos_id],
        "clean_up_tokenization_spaces": False,
        "eos_token": pieces.names[config.stop_ids[0]],
        "model_max_length": config.context_length,
        "pad_token": pieces.names[config.pad_id],
        "padding_side": "left",
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": pieces.names[pieces.unknown_id],
    }


def _byte_tokenizer_config(source: Source, pieces: BytePieces) -> dict[str, Any]:
    config = source.config
    return {
        "bos_token": pieces.names[config.bos_id],
        "clean_up_tokenization_spaces": False,
        "eos_token": pieces.names[config.stop_ids[0]],
        "model_max_length": config.context_length,
        "pad_token": pieces.names[config.pad_id],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def tokenizer_json(pieces: Pieces) -> dict[str, Any]:
    """The same BPE as the `tokenizers` library states it: vocabulary, merges in order, added tokens."""
    vocab = {name: id for id, name in enumerate(pieces.names)}
    types = pieces.types.tolist()
    added = [
        {
            "id": id,
            "content": pieces.names[id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": _SPECIAL.fullmatch(pieces.names[id]) is not None,
        }
        for id in np.flatnonzero(np.isin(types, (CONTROL, UNKNOWN, USER_DEFINED))).tolist()
    ]
    bos = pieces.names[pieces.bos_id]
    first = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {bos: {"id": bos, "ids": [pieces.bos_id], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces.names[pieces.unknown_id],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges_of(pieces, vocab),
        },
    }


def merges_of(pieces: Pieces, vocab: dict[str, int]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, the earlier the higher it scores.

    Runs of spaces come first, the longer the earlier: they are whole before anything else is merged, as
    SentencePiece has it for user-defined pieces, and grow from the left.
    """
    found: list[tuple[float, int, int, str, str]] = []
    types, scores = pieces.types.tolist(), pieces.scores.tolist()
    for id, name in enumerate(pieces.names):
        if len(name) < 2:
            continue
        if types[id] == NORMAL:
            score = -scores[id]
        elif types[id] == USER_DEFINED and not name.strip(SPACE):
            score = -np.inf
        else:
            continue
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in vocab and right in vocab:
                found.append((score, -cut, cut - len(name), left, right))
    found.sort(key=lambda merge: merge[:3])
    return [[left, right] for _, _, _, left, right in found]
