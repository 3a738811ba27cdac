"""The three places a vocabulary comes from: tokenizer.model, tokenizer.json, the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gemlet.errors import ModelFileError
from gemlet.formats.files import map_file, parse_json
from gemlet.text.pieces import (
    BPE,
    BYTE,
    CONTROL,
    MAX_PIECES,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Field,
    Pieces,
    byte_value,
    is_control_name,
)
from gemlet.text.protobuf import read_fields
from gemlet.types import TokenizerSource

MAX_FILE_BYTES = 1 << 28


def read_pieces(source: TokenizerSource) -> Pieces:
    """The pieces of a source, not yet checked. Raises ModelFileError."""
    if source.kind == "gguf":
        return _from_gguf(source)
    data = map_file(source.path)
    if len(data) > MAX_FILE_BYTES:
        raise ModelFileError(source.path, "file", f"is larger than {MAX_FILE_BYTES} bytes")
    if source.kind == "sentencepiece":
        return pieces_of_model(data.tobytes(), source.path, source.bos_id)
    return _from_json(source.path, parse_json(source.path, "file", data.tobytes()), source.bos_id)


def _from_gguf(source: TokenizerSource) -> Pieces:
    if source.vocabulary is None:
        raise ModelFileError(source.path, "tokenizer.ggml.tokens", "is missing")
    if source.add_space_prefix:
        field = "tokenizer.ggml.add_space_prefix"
        raise ModelFileError(source.path, field, "is true; only false is supported")
    names = []
    for i, piece in enumerate(source.vocabulary.pieces()):
        try:
            names.append(piece.decode().replace(" ", SPACE))
        except UnicodeDecodeError:
            raise ModelFileError(source.path, f"tokenizer.ggml.tokens[{i}]", "is not UTF-8") from None
    types = source.vocabulary.types
    unknown_id = source.unknown_id
    if unknown_id is None:
        unknown_id = _only(source.path, np.flatnonzero(types == UNKNOWN).tolist())
    return Pieces(names, np.asarray(source.vocabulary.scores, np.float64), types, unknown_id, source.bos_id)


def pieces_of_model(data: bytes, path: str, bos_id: int | None = None) -> Pieces:
    """The pieces of a SentencePiece model of Gemma's kind; without `bos_id` the model's own.

    Raises ModelFileError naming `path` for another kind of model, and for one that normalises text.
    """
    names: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    parts: dict[int, dict[int, Any]] = {Field.TRAINER: {}, Field.NORMALIZER: {}}
    try:
        for number, value in read_fields(data):
            if number in parts:
                parts[number] = dict(read_fields(_message(value)))
            elif number == Field.PIECES and len(names) < MAX_PIECES:
                piece: dict[int, Any] = dict(read_fields(_message(value)))
                names.append(_message(piece.get(Field.PIECE, b"")).decode())
                scores.append(float(piece.get(Field.SCORE, 0.0)))
                types.append(int(piece.get(Field.TYPE, NORMAL)))
    except (ValueError, TypeError, OverflowError) as error:  # also bad UTF-8
        raise ModelFileError(path, "file", f"is not a SentencePiece model: {error}") from None
    _expect_plain_bpe(path, parts[Field.TRAINER], parts[Field.NORMALIZER])
    if bos_id is None:
        bos_id = parts[Field.TRAINER].get(Field.BOS_ID, 1)
    unknown_id = _only(path, [i for i, kind in enumerate(types) if kind == UNKNOWN])
    kinds = np.clip(types, 0, BYTE + 1).astype(np.int32)
    return Pieces(names, np.array(scores), kinds, unknown_id, int(bos_id))


def _message(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a string or message belongs")
    return value


def _expect_plain_bpe(path: str, trainer: Mapping[int, Any], normalizer: Mapping[int, Any]) -> None:
    """Absent fields have the format's defaults, which prefix a space and remove doubled ones."""
    wanted = [
        ("trainer_spec.model_type", trainer.get(Field.MODEL_TYPE, 1), BPE),
        ("trainer_spec.byte_fallback", trainer.get(Field.BYTE_FALLBACK, 0), 1),
        ("trainer_spec.treat_whitespace_as_suffix", trainer.get(Field.SPACE_AS_SUFFIX, 0), 0),
        ("normalizer_spec.precompiled_charsmap", normalizer.get(Field.CHARSMAP, b""), b""),
        ("normalizer_spec.add_dummy_prefix", normalizer.get(Field.DUMMY_PREFIX, 1), 0),
        ("normalizer_spec.remove_extra_whitespaces", normalizer.get(Field.REMOVE_SPACES, 1), 0),
        ("normalizer_spec.escape_whitespaces", normalizer.get(Field.ESCAPE_SPACES, 1), 1),
    ]
    for field, found, needed in wanted:
        if found != needed:
            shown = f"{len(found)} bytes" if isinstance(found, bytes) else found
            raise ModelFileError(path, field, f"is {shown}; only {needed!r} is supported")


def _only(path: str, ids: list[int]) -> int:
    if len(ids) != 1:
        raise ModelFileError(path, "vocabulary", f"has {len(ids)} unknown pieces, not one")
    return ids[0]


_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PRE_TOKENIZER = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}  # finds nothing: the normaliser has replaced every space


def _from_json(path: str, document: Mapping[str, Any], bos_id: int) -> Pieces:
    """A tokenizer.json whose BPE does exactly what SentencePiece does with the same pieces."""
    model = document.get("model")
    if not isinstance(model, dict):
        raise ModelFileError(path, "model", "is missing")
    _expect_same_algorithm(path, document, model)
    vocab = _json_vocab(path, model.get("vocab"))
    names = list(vocab)
    types = np.full(len(names), NORMAL, np.int32)
    types[[i for i, name in enumerate(names) if byte_value(name) is not None]] = BYTE
    for token in _added_tokens(path, document):
        name, number = token["content"], token["id"]
        if number == len(names) and name not in vocab and not is_control_name(name):
            vocab[name] = number
            names.append(name)
            types = np.append(types, np.int32(NORMAL))
        if number < len(names):
            if names[number] != name:
                raise ModelFileError(path, "added_tokens", f"id {number} is {name!r} and {names[number]!r}")
            types[number] = CONTROL if token.get("special") else USER_DEFINED
        elif not is_control_name(name):
            raise ModelFileError(path, "added_tokens", f"{name!r} has the id {number}, past the vocabulary")
    unknown_id = vocab.get(str(model.get("unk_token")), -1)
    scores = _merge_scores(path, model.get("merges"), vocab, types)
    return Pieces(names, scores, types, unknown_id, bos_id)


def _expect_same_algorithm(path: str, document: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    wanted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("normalizer", document.get("normalizer"), (_NORMALIZER,)),
        ("pre_tokenizer", document.get("pre_tokenizer"), (_PRE_TOKENIZER, None)),
        ("model.type", model.get("type"), ("BPE",)),
        ("model.byte_fallback", model.get("byte_fallback"), (True,)),
        ("model.dropout", model.get("dropout"), (None, 0)),
        ("model.ignore_merges", model.get("ignore_merges"), (None, False)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
    ]
    for field, found, accepted in wanted:
        if found not in accepted:
            raise ModelFileError(path, field, f"is {str(found)[:80]!r}; only {accepted[0]!r} is supported")


def _json_vocab(path: str, vocab: object) -> dict[str, int]:
    """Pieces and ids, in id order; ids are 0, 1, 2, ... without a gap."""
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_PIECES:
        raise ModelFileError(path, "model.vocab", f"is not an object of 1 to {MAX_PIECES} pieces")
    ids = list(vocab.values())
    if not all(type(number) is int for number in ids) or sorted(ids) != list(range(len(ids))):
        raise ModelFileError(path, "model.vocab", "has ids that are not 0, 1, 2, ... without a gap")
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def _added_tokens(path: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens matched in the raw text, in id order, each with its content and id."""
    tokens = document.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(_is_added_token(token) for token in tokens):
        raise ModelFileError(path, "added_tokens", "is not a list of tokens, each with content and id")
    for token in tokens:
        for flag in ("single_word", "lstrip", "rstrip", "normalized"):
            if token.get(flag) and not token.get("special"):
                problem = f"{token['content']!r} has {flag}, which is not supported"
                raise ModelFileError(path, "added_tokens", problem)
    return sorted(tokens, key=lambda token: int(token["id"]))


def _is_added_token(token: object) -> bool:
    if not isinstance(token, dict):
        return False
    number = token.get("id")
    return isinstance(token.get("content"), str) and type(number) is int and number >= 0


def _merge_scores(path: str, merges: object, vocab: Mapping[str, int], types: np.ndarray) -> np.ndarray:
    """A score for every ordinary piece that merges make, the earlier the higher.

    Equal to merging by rank only if the ranks of one piece's merges stand together and no possible merge is
    missing; raises ModelFileError where that does not hold.
    """
    if not isinstance(merges, list):
        raise ModelFileError(path, "model.merges", "is not a list")
    ordinary = (types == NORMAL).tolist()
    ranks = [len(merges)] * len(vocab)
    seen: set[tuple[str, str]] = set()
    last = -1
    for rank, merge in enumerate(merges):
        pair = _pair(merge)
        if pair is None or pair in seen or pair[0] not in vocab or pair[1] not in vocab:
            raise ModelFileError(path, f"model.merges[{rank}]", "is not a new pair of pieces")
        seen.add(pair)
        made = vocab.get(pair[0] + pair[1])
        if made is None:
            raise ModelFileError(path, f"model.merges[{rank}]", "makes no piece of the vocabulary")
        if made == last or not ordinary[made]:
            continue
        if ranks[made] < len(merges):
            raise ModelFileError(path, f"model.merges[{rank}]", "stands apart from others for its piece")
        ranks[made] = rank
        last = made
    for name, number in vocab.items():
        if ordinary[number]:
            _expect_every_merge(path, name, seen, vocab)
    return -np.array(ranks, np.float64)


def _pair(merge: object) -> tuple[str, str] | None:
    """Two pieces, from ["a", "b"] or "a b"; None for anything else."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2:
        return None
    left, right = parts
    return (left, right) if isinstance(left, str) and isinstance(right, str) else None


def _expect_every_merge(path: str, name: str, merges: set[tuple[str, str]], vocab: Mapping[str, int]) -> None:
    for k in range(1, len(name)):
        left, right = name[:k], name[k:]
        if left in vocab and right in vocab and (left, right) not in merges:
            raise ModelFileError(path, "model.merges", f"does not merge {left!r} and {right!r}")
