"""Vocabularies from files: the same tokenizer whichever file holds it, typed errors for all others."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import GemletError, ModelFileError
from gemlet.text.pieces import Field
from gemlet.text.protobuf import bytes_field, varint_field
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import TokenizerSource
from tests.synthetic_tokenizer import tiny_tokenizer, tiny_vocabulary
from tests.text.vocabularies import (
    SIZE,
    gguf_source,
    json_document,
    json_source,
    model_source,
    tiny,
    vocabulary,
)


def test_three_kinds_of_file_give_one_tokenizer(tmp_path: Path) -> None:
    sources = [
        gguf_source(),
        json_source(tmp_path, json_document()),
        model_source(tmp_path, tiny_tokenizer(SIZE)),
    ]
    assert {Tokenizer.from_source(source).sha256 for source in sources} == {tiny().sha256}


def test_another_order_of_merges_is_another_tokenizer() -> None:
    pieces, scores, types = tiny_vocabulary(SIZE)
    ordinary = [i for i in range(SIZE) if types[i] == 1 and len(pieces[i]) > 1]
    swapped = list(scores)
    swapped[ordinary[0]], swapped[ordinary[1]] = scores[ordinary[1]], scores[ordinary[0]]
    changed = vocabulary([piece.encode() for piece in pieces], swapped, list(types))
    assert Tokenizer.from_source(gguf_source(vocabulary=changed)).sha256 != tiny().sha256


def test_the_conversion_is_kept_and_used(tmp_path: Path) -> None:
    first = Tokenizer.from_source(gguf_source(), tmp_path)
    (kept,) = (tmp_path / "tokenizers").iterdir()
    again = Tokenizer.from_source(gguf_source(vocabulary=None), tmp_path)  # nothing to convert from
    assert again.sha256 == first.sha256
    whole = kept.read_bytes()
    for length in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert Tokenizer.from_source(gguf_source(), tmp_path).sha256 == first.sha256
        assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").write_text("a file where a folder belongs")
    assert Tokenizer.from_source(gguf_source(), tmp_path).sha256 == tiny().sha256


@pytest.mark.parametrize("mistyped", [1, 4, 5])
def test_control_pieces_stay_control_whatever_their_type(mistyped: int) -> None:
    pieces, scores, types = tiny_vocabulary(SIZE)
    control = [i for i in range(SIZE) if types[i] == 3 and pieces[i] != "[multimodal]"]
    wrong = [mistyped if i in control else kind for i, kind in enumerate(types)]
    changed = vocabulary([piece.encode() for piece in pieces], list(scores), wrong)
    tokenizer = Tokenizer.from_source(gguf_source(vocabulary=changed))
    assert not set(tokenizer.encode("".join(pieces[i] for i in control))) & set(control)
    assert all(tokenizer.is_control(i) and tokenizer.piece(i) == b"" for i in control)


def changed_vocabulary(change: Callable[[list[bytes], list[float], list[int]], None]) -> TokenizerSource:
    pieces, scores, types = tiny_vocabulary(SIZE)
    lists = [piece.encode() for piece in pieces], list(scores), list(types)
    change(*lists)
    return gguf_source(vocabulary=vocabulary(*lists))


def put(position: int, index: int, value: Any) -> Callable[..., None]:
    def change(*lists: list[Any]) -> None:
        lists[position][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put(0, 700, b""), "piece 700"),
        (put(0, 700, b"a\0b"), "piece 700"),
        (put(0, 700, b"\xff"), r"tokens\[700\]"),
        (put(0, 700, b"<0x41>"), "piece 700.*piece 303"),
        (put(0, 700, b"a" * 5000), "piece 700"),
        (put(1, 700, float("nan")), "scores"),
        (put(2, 700, 9), "types"),
        (put(2, 300, 1), "256 bytes"),
    ],
)
def test_a_bad_gguf_vocabulary_is_refused(change: Callable[..., None], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_source(changed_vocabulary(change))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bos_id": SIZE}, "bos_token_id"),
        ({"unknown_id": -1}, "unknown_token_id"),
        ({"unknown_id": None}, "unknown pieces"),
        ({"add_space_prefix": True}, "add_space_prefix"),
        ({"vocabulary": None}, "tokens"),
    ],
)
def test_a_bad_gguf_source_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_source(gguf_source(**changes))


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for name in parents:
            document = document[name]
        if value is None:
            del document[last]
        else:
            document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edit("model", None), "model"),
        (edit("model.type", "Unigram"), "model.type"),
        (edit("model.byte_fallback", False), "byte_fallback"),
        (edit("model.ignore_merges", True), "ignore_merges"),
        (edit("model.unk_token", "<none>"), "unknown_token_id"),
        (edit("normalizer", {"type": "NFKC"}), "normalizer"),
        (edit("pre_tokenizer", {"type": "Metaspace"}), "pre_tokenizer"),
        (edit("model.vocab", []), "model.vocab"),
        (edit("model.vocab.later", SIZE + 1), "model.vocab"),
        (edit("model.vocab.again", 5), "model.vocab"),
        (edit("model.vocab.text", "5"), "model.vocab"),
        (edit("model.merges", "a b"), "model.merges"),
        (edit("added_tokens", []), "does not merge"),
        (edit("added_tokens", [{"id": 1}]), "added_tokens"),
        (edit("added_tokens", [{"id": 107, "content": "other"}]), "added_tokens"),
        (edit("added_tokens", [{"id": SIZE + 5, "content": "other"}]), "added_tokens"),
        (edit("added_tokens", [{"id": 107, "content": "\n", "lstrip": True}]), "lstrip"),
        (lambda document: document["model"]["merges"].pop(), "does not merge"),
        (lambda document: document["model"]["merges"].append(["no", "where"]), "merges"),
        (lambda document: document["model"]["merges"].append(document["model"]["merges"][0]), "merges"),
        (lambda document: document["model"]["merges"].append([1, 2, 3]), "merges"),
    ],
)
def test_a_json_that_sentencepiece_cannot_equal_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    document = copy.deepcopy(json_document())
    change(document)
    source = json_source(tmp_path, document)
    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_source(source)


def test_json_merges_of_one_piece_must_stand_together(tmp_path: Path) -> None:
    document = copy.deepcopy(json_document())
    merges = document["model"]["merges"]
    made = ["".join(merge) for merge in merges]
    first = next(i for i in range(len(made) - 1) if made[i] == made[i + 1])
    merges.append(merges.pop(first))
    with pytest.raises(ModelFileError, match="stands apart"):
        Tokenizer.from_source(json_source(tmp_path, document))


def test_json_may_spell_merges_as_text_and_add_tokens(tmp_path: Path) -> None:
    document = copy.deepcopy(json_document())
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    assert Tokenizer.from_source(json_source(tmp_path, document)).sha256 == tiny().sha256
    document["added_tokens"].append({"id": SIZE, "content": "<tool_call>"})
    tokenizer = Tokenizer.from_source(json_source(tmp_path, document))
    assert tokenizer.encode("a<tool_call>b")[1:-1] == [SIZE]


def test_a_sentencepiece_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    data = tiny_tokenizer(SIZE)  # a later part of a model takes the place of an earlier one
    unigram = bytes_field(Field.TRAINER, varint_field(Field.MODEL_TYPE, 1))
    prefixing = bytes_field(Field.NORMALIZER, varint_field(Field.DUMMY_PREFIX, 1))
    for tail, named in ((unigram, "model_type"), (prefixing, "add_dummy_prefix"), (b"\x0b", "not a Sen")):
        with pytest.raises(ModelFileError, match=named):
            Tokenizer.from_source(model_source(tmp_path, data + tail))


def test_damaged_models_raise_typed_errors_only() -> None:
    data = bytearray(tiny_tokenizer(SIZE))
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.5:
            damaged = damaged[: rng.randrange(len(damaged))]
        try:
            Tokenizer.from_sentencepiece(bytes(damaged)).encode("Any text at all.")
        except GemletError:
            refused += 1
    assert refused > 100


def test_a_vocabulary_whose_columns_disagree_is_refused() -> None:
    whole = gguf_source().vocabulary
    assert whole is not None
    short = replace(whole, scores=np.zeros(3, np.float32))
    with pytest.raises(ModelFileError, match="scores"):
        Tokenizer.from_source(gguf_source(vocabulary=short))
