"""Byte-level BPE: the ids of the library with the models' own rules, whichever file a vocabulary is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from gemlet.errors import InvalidRequestError, MissingExtraError, ModelFileError, TextError
from gemlet.text.stream import TextStream
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import TokenizerSource, Vocabulary
from tests.llama_models import tiny_bpe
from tests.text.hostile import HOSTILE

NAMES = ("smollm", "llama-bpe", "qwen2")


def from_json(folder: Path, words: str, change: Callable[[Any], None] | None = None) -> Tokenizer:
    document = json.loads(tiny_bpe(words).to_str())
    if change is not None:
        change(document)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document))
    source = TokenizerSource("tokenizer-json", str(path), "0" * 64, 0, algorithm="byte-bpe")
    return Tokenizer.from_source(source)


def from_gguf(words: str, pre: str | None = None, **changes: Any) -> Tokenizer:
    document = json.loads(tiny_bpe(words).to_str())
    added = {token["id"]: token for token in document["added_tokens"]}
    ids = {number: name for name, number in document["model"]["vocab"].items()}
    ids |= {number: token["content"] for number, token in added.items()}
    pieces = [ids[number].encode() for number in range(len(ids))]
    kinds = [1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(ids))]
    merges = [" ".join(pair).encode() for pair in document["model"]["merges"]]
    vocabulary = Vocabulary(*joined(pieces), np.zeros(len(ids), np.float32), np.array(kinds), *joined(merges))
    values: dict[str, Any] = {"vocabulary": vocabulary, "pre": pre or words, "add_bos": False} | changes
    return Tokenizer.from_source(TokenizerSource("gguf", "m.gguf", "0", 0, algorithm="byte-bpe", **values))


def joined(items: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(items), np.uint8), np.cumsum([len(item) for item in items])


@pytest.mark.parametrize("words", NAMES)
def test_ids_are_the_librarys_and_text_returns(words: str, tmp_path: Path) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=tiny_bpe(words))
    theirs.split_special_tokens = True
    one, other = from_json(tmp_path, words), from_gguf(words)
    assert one.sha256 == other.sha256
    for text in [*HOSTILE, "a <tool_call> b", Path(__file__).read_text(encoding="utf-8")]:
        ids = one.encode(text, bos=True)
        assert other.encode(text) == ids  # neither knows a BOS
        if not any(name in text for name in ("<|im", "<|end")):
            assert ids == theirs.encode(text, add_special_tokens=False), text[:80]
        assert not any(map(one.is_control, ids))
        stream = TextStream(one)
        assert "".join(map(stream.push, ids)) + stream.finish() == one.decode(ids)
        if words != "qwen2":  # which normalises
            assert one.decode(ids) == text


def test_a_defined_word_is_one_token_and_control_tokens_have_names(tmp_path: Path) -> None:
    tokenizer = from_json(tmp_path, "qwen2")
    (word,) = tokenizer.encode("<tool_call>")
    assert tokenizer.piece(word) == b"<tool_call>"
    assert tokenizer.control_id("<tool_call>") is None
    assert (tokenizer.control_id("<|im_end|>"), tokenizer.piece(2), tokenizer.decode([2])) == (2, b"", "")
    assert tokenizer.shown([1, *tokenizer.encode("x")]) == "<|im_start|>x"
    with pytest.raises(InvalidRequestError):
        tokenizer.is_control(tokenizer.vocab_size)
    with pytest.raises(TextError):
        tokenizer.encode("\ud800")


def test_bos_comes_where_the_file_or_the_kind_says(tmp_path: Path) -> None:
    assert from_gguf("llama-bpe", add_bos=None).encode("a", bos=True)[0] == 0
    assert from_gguf("smollm", add_bos=None).encode("a", bos=True)[0] != 0

    def with_bos(document: Any) -> None:
        parts = [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        document["post_processor"] = {"type": "TemplateProcessing", "single": parts, "special_tokens": {}}

    assert from_json(tmp_path, "llama-bpe", with_bos).encode("a", bos=True)[0] == 0


CHANGES: dict[str, Callable[[Any], None]] = {
    "model.type": lambda d: d["model"].update(type="Unigram"),
    "model.dropout": lambda d: d["model"].update(dropout=0.1),
    "model.merges": lambda d: d["model"].update(merges=["a"]),
    "merge 0": lambda d: d["model"]["merges"].insert(0, ["zz", "qq"]),
    "pre_tokenizer": lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
    "post_processor": lambda d: d.update(post_processor={"type": "BertProcessing"}),
    "added_tokens": lambda d: d["added_tokens"][0].update(content="other"),
    "model.vocab": lambda d: d["model"]["vocab"].update(gap=1000),
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_is_not_understood_is_refused_by_name(field: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        from_json(tmp_path, "smollm", CHANGES[field])
    assert field.split()[0] in caught.value.field or "merge" in caught.value.field


def test_an_unknown_way_to_cut_words_is_refused_by_name() -> None:
    with pytest.raises(ModelFileError, match="'tekken'; supported are smollm, llama-bpe, qwen2"):
        from_gguf("smollm", pre="tekken")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match="'families'"):
        from_gguf("smollm")
