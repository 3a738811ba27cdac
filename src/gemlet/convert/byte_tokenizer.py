"""A byte-level BPE as the `tokenizers` library and GGUF files state it."""

from __future__ import annotations

from typing import Any

from gemlet.convert.gguf_values import ARRAY, BOOL, I32, STRING, U32, Metadata, Value
from gemlet.errors import InvalidRequestError
from gemlet.text.byte_level import Pieces, padding_name, words_json
from gemlet.text.pieces import CONTROL, NORMAL, UNKNOWN, UNUSED


def byte_tokenizer_json(pieces: Pieces) -> dict[str, Any]:
    """tokenizer.json: vocabulary, merges in order, added tokens, how text is cut.

    Rows of the embedding without a piece are left out. InvalidRequestError for a piece that is not used.
    """
    count = len(pieces.names)
    while count and pieces.types[count - 1] == UNUSED and pieces.names[count - 1] == padding_name(count - 1):
        count -= 1
    types = pieces.types[:count]
    if UNUSED in types:
        raise InvalidRequestError(
            f"a transformers folder cannot say that piece {types.index(UNUSED)} is not used",
            hint="--format gguf can",
        )
    words = words_json(pieces.words)
    added = [
        {
            "id": id,
            "content": pieces.names[id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind in (CONTROL, UNKNOWN),
        }
        for id, kind in enumerate(types)
        if kind != NORMAL
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": words["normalizer"],
        "pre_tokenizer": words["pre_tokenizer"],
        "post_processor": _begin(pieces) if pieces.adds_bos else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": words["ignore_merges"],
            "vocab": {name: id for id, name in enumerate(pieces.names[:count])},
            "merges": [list(merge) for merge in pieces.merges],
        },
    }


def _begin(pieces: Pieces) -> dict[str, Any]:
    """One BOS before each text."""
    bos = pieces.names[pieces.bos_id]
    single, second = (
        [{"SpecialToken": {"id": bos, "type_id": place}}, {"Sequence": {"id": name, "type_id": place}}]
        for place, name in enumerate("AB")
    )
    special = {bos: {"id": bos, "ids": [pieces.bos_id], "tokens": [bos]}}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + second,
        "special_tokens": special,
    }


def byte_tokenizer_metadata(pieces: Pieces) -> Metadata:
    """The keys of a GGUF file, the ids of special tokens but the BOS apart."""
    merges = [f"{left} {right}" for left, right in pieces.merges]
    metadata = {
        "model": Value(STRING, "gpt2"),
        "pre": Value(STRING, pieces.words),
        "tokens": Value(ARRAY, list(pieces.names), STRING),
        "token_type": Value(ARRAY, list(pieces.types), I32),
        "merges": Value(ARRAY, merges, STRING),
        "bos_token_id": Value(U32, pieces.bos_id),
        "add_bos_token": Value(BOOL, pieces.adds_bos),
        "add_space_prefix": Value(BOOL, False),
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
