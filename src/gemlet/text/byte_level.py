"""Byte-level BPE, by the tokenizers library: Llama 3, Qwen, SmolLM and what is built like them.

A text is cut into words, each word into pieces of its UTF-8 bytes. How words are cut is known here by the
names that GGUF files use, and a tokenizer.json must cut in one of these ways: its own patterns are never run.
A byte that a vocabulary has no piece for is left out, as these models' own tokenizers leave it out: SmolLM2
has none for six control characters (U+0004 is one), nor for the first of characters U+40000 to U+BFFFF.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemlet.errors import MissingExtraError, ModelFileError
from gemlet.formats.files import map_file, parse_json
from gemlet.text.pieces import CONTROL, MAX_PIECES, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from gemlet.text.tokenizer import Tokenizer, check_text
from gemlet.text.vocabulary import MAX_FILE_BYTES
from gemlet.types import TokenizerSource


@dataclass(frozen=True)
class Words:
    """How text becomes words. `pattern` "": each digit alone, the rest as GPT-2 does it.

    `nfc`: text is normalised first. `whole`: a word that is a piece becomes it, whatever the merges say.
    `bos`: text begins with a BOS where the file does not say.
    """

    pattern: str
    nfc: bool = False
    whole: bool = False
    bos: bool = False


_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {
    "smollm": Words(""),
    "llama-bpe": Words(_PATTERN % "{1,3}", whole=True, bos=True),
    "qwen2": Words(_PATTERN % "", nfc=True),
}
"""By the name that GGUF files give as `tokenizer.ggml.pre`."""


def _byte_characters() -> dict[str, int]:
    """The character that stands for each byte in pieces: itself where it can be seen, else from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()
_SIGNALS = (CONTROL, UNKNOWN)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Every piece in id order. `merges`: pairs of pieces, the first to be applied first.

    `types`: the constants of gemlet.text.pieces; ordinary pieces are spelled in characters for bytes, control
    tokens and user-defined pieces as they are.
    """

    names: Sequence[str]
    types: Sequence[int]
    merges: Sequence[tuple[str, str]]
    words: str
    bos_id: int
    adds_bos: bool


class ByteLevelTokenizer(Tokenizer):
    """A byte-level BPE tokenizer. Safe to use from several threads."""

    def __init__(self, pieces: Pieces) -> None:
        words = WORDS[pieces.words]
        self.vocab_size = len(pieces.names)
        self.bos_id = pieces.bos_id
        self.adds_bos = pieces.adds_bos
        self.sha256 = _sha256(pieces)
        self._names = pieces.names
        self._types = pieces.types
        self._pieces: dict[int, bytes] = {}
        self._control_ids = {name: i for i, name in enumerate(pieces.names) if pieces.types[i] in _SIGNALS}
        self._encoder = _encoder(pieces, words)

    @classmethod
    def from_source(cls, source: TokenizerSource, cache_dir: Any = None) -> ByteLevelTokenizer:
        """The tokenizer of a model. Raises ModelFileError naming file and field, MissingExtraError."""
        return cls(read_byte_pieces(source))

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Token ids of a text, after one BOS if asked and if the model was made for one.

        Control tokens are never among the text's. Raises TextError for what is not text.
        """
        check_text(text, "text")
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos and self.adds_bos else ids

    @property
    def control_names(self) -> Mapping[str, int]:
        """Every control token by its name."""
        return self._control_ids

    def is_control(self, token_id: int) -> bool:
        return self._types[self._checked_id(token_id)] in (*_SIGNALS, UNUSED)

    def control_id(self, name: str) -> int | None:
        return self._control_ids.get(name)

    def _name(self, token_id: int) -> str:
        return self._names[token_id]

    def _look_up(self, token_id: int) -> bytes:
        if self.is_control(token_id):
            return b""
        name = self._names[token_id]
        if self._types[token_id] == USER_DEFINED:
            return name.encode()
        return bytes(_BYTES[character] for character in name)


def read_byte_pieces(source: TokenizerSource) -> Pieces:
    """The vocabulary of a model's byte-level BPE, checked. Raises ModelFileError naming file and field."""
    pieces = _from_gguf(source) if source.kind == "gguf" else _from_json(source)
    _check(source.path, pieces)
    return pieces


def _encoder(pieces: Pieces, words: Words) -> Any:
    """The library's tokenizer. It knows no control token, so that text cannot become one."""
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError:
        raise MissingExtraError("the tokenizer of this model", "families") from None
    text = {name: i for i, name in enumerate(pieces.names) if pieces.types[i] not in (*_SIGNALS, UNUSED)}
    encoder = Tokenizer(models.BPE(text, list(pieces.merges), ignore_merges=words.whole))
    if words.nfc:
        encoder.normalizer = normalizers.NFC()
    split: Any = pre_tokenizers.Digits(individual_digits=True)
    if words.pattern:
        split = pre_tokenizers.Split(Regex(words.pattern), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words.pattern)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    defined = [name for i, name in enumerate(pieces.names) if pieces.types[i] == USER_DEFINED]
    encoder.add_tokens([AddedToken(name, normalized=False) for name in defined])
    return encoder


def _sha256(pieces: Pieces) -> str:
    """The same whichever kind of file the vocabulary was read from."""
    merges = [f"{left} {right}" for left, right in pieces.merges]
    parts = (list(pieces.names), list(pieces.types), merges, pieces.words, pieces.bos_id, pieces.adds_bos)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _check(path: str, pieces: Pieces) -> None:
    if len(set(pieces.names)) != len(pieces.names):
        raise ModelFileError(path, "vocabulary", "has a piece twice")
    if not 0 <= pieces.bos_id < len(pieces.names):
        raise ModelFileError(path, "bos_token_id", f"is {pieces.bos_id}, outside the vocabulary")
    known = set()
    for i, (name, kind) in enumerate(zip(pieces.names, pieces.types, strict=True)):
        if not name:
            raise ModelFileError(path, f"piece {i}", "is empty")
        if kind not in (*_SIGNALS, UNUSED, USER_DEFINED):
            known.add(name)
            if not _BYTES.keys() >= set(name):
                raise ModelFileError(path, f"piece {i}", f"{name[:40]!r} is not spelled in bytes")
    for i, (left, right) in enumerate(pieces.merges):
        if left not in known or right not in known or left + right not in known:
            raise ModelFileError(path, f"merge {i}", f"{left[:40]!r} {right[:40]!r} is not of the vocabulary")


# --- From a GGUF file


def _from_gguf(source: TokenizerSource) -> Pieces:
    vocabulary = source.vocabulary
    if vocabulary is None or vocabulary.merges is None:
        raise ModelFileError(source.path, "tokenizer.ggml.merges", "is missing")
    if source.pre not in WORDS:
        problem = f"is {str(source.pre)[:40]!r}; supported are {', '.join(WORDS)}"
        raise ModelFileError(source.path, "tokenizer.ggml.pre", problem)
    try:
        names = [piece.decode() for piece in vocabulary.pieces()]
        merges = [_pair(source.path, merge.decode()) for merge in vocabulary.merge_list()]
    except UnicodeDecodeError:
        raise ModelFileError(source.path, "tokenizer.ggml.tokens", "holds what is not UTF-8") from None
    types = vocabulary.types.tolist()
    adds_bos = WORDS[source.pre].bos if source.add_bos is None else source.add_bos
    return Pieces(names, [kind or NORMAL for kind in types], merges, source.pre, source.bos_id, adds_bos)


def _pair(path: str, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right) or " " in right:
        raise ModelFileError(path, "merges", f"{merge[:40]!r} is not two pieces")
    return left, right


# --- From tokenizer.json


def _from_json(source: TokenizerSource) -> Pieces:
    path = source.path
    if source.kind != "tokenizer-json":
        raise ModelFileError(path, "tokenizer.json", "is missing: this family's tokenizer is read from it")
    data = map_file(path)
    if len(data) > MAX_FILE_BYTES:
        raise ModelFileError(path, "file", f"is larger than {MAX_FILE_BYTES} bytes")
    document = parse_json(path, "file", data.tobytes())
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise ModelFileError(path, "model.type", "is not BPE")
    words = _words(path, document, model)
    names, types = _json_names(path, document, model)
    missing = range(len(names), source.rows or 0)  # rows of the embedding that are there for their number
    names += [padding_name(i) for i in missing]
    types += [UNUSED] * len(missing)
    merges = [_json_merge(path, merge) for merge in _list(path, "model.merges", model.get("merges"))]
    adds_bos = _adds_bos(path, document.get("post_processor"), names, source.bos_id)
    return Pieces(names, types, merges, words, source.bos_id, adds_bos)


def padding_name(token_id: int) -> str:
    """What GGUF files call a row of the embedding without a piece."""
    return f"[PAD{token_id}]"


def _words(path: str, document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(field) not in (None, "", 0, False):
            raise ModelFileError(path, f"model.{field}", f"is {str(model[field])[:40]!r}; not supported")
    found = {
        "pre_tokenizer": document.get("pre_tokenizer"),
        "normalizer": document.get("normalizer"),
        "ignore_merges": model.get("ignore_merges") or False,
    }
    found = _without_offsets(found)
    for name in WORDS:
        if found == _without_offsets(words_json(name)):
            return name
    problem = f"cuts text in another way than {', '.join(WORDS)}, which are supported"
    raise ModelFileError(path, "pre_tokenizer", problem)


def words_json(name: str) -> dict[str, Any]:
    """How tokenizer.json states one of WORDS, `ignore_merges` being a part of its model."""
    words = WORDS[name]
    split: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if words.pattern:
        pattern = {"Regex": words.pattern}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    bytewise["use_regex"] = not words.pattern
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytewise]},
        "normalizer": {"type": "NFC"} if words.nfc else None,
        "ignore_merges": words.whole,
    }


def _without_offsets(value: Any) -> Any:
    """A part of the document without what only concerns the places of pieces in a text."""
    if isinstance(value, dict):
        return {key: _without_offsets(item) for key, item in value.items() if key != "trim_offsets"}
    return [_without_offsets(item) for item in value] if isinstance(value, list) else value


def _json_names(
    path: str, document: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[list[str], list[int]]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_PIECES:
        raise ModelFileError(path, "model.vocab", f"is not an object of 1 to {MAX_PIECES} pieces")
    if not all(type(number) is int for number in vocab.values()):
        raise ModelFileError(path, "model.vocab", "has an id that is not a whole number")
    by_id = {number: (name, NORMAL) for name, number in vocab.items()}
    for token in _list(path, "added_tokens", document.get("added_tokens")):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ModelFileError(path, "added_tokens", "holds something that is not a token")
        number, name = token.get("id"), token["content"]
        if type(number) is not int:
            raise ModelFileError(path, "added_tokens", f"{name!r} has no id")
        if by_id.get(number, (name, 0))[0] != name:
            raise ModelFileError(path, "added_tokens", f"id {number} is {name!r} and {by_id[number][0]!r}")
        if not token.get("special") and any(token.get(key) for key in ("lstrip", "rstrip", "single_word")):
            raise ModelFileError(path, "added_tokens", f"{name!r} is found in an unsupported way")
        by_id[number] = name, CONTROL if token.get("special") else USER_DEFINED
    if sorted(by_id) != list(range(len(by_id))):
        raise ModelFileError(path, "model.vocab", "has ids that are not 0, 1, 2, ... without a gap")
    ordered = [by_id[number] for number in range(len(by_id))]
    return [name for name, _ in ordered], [kind for _, kind in ordered]


def _json_merge(path: str, merge: Any) -> tuple[str, str]:
    if isinstance(merge, str):
        return _pair(path, merge)
    if isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
        return merge[0], merge[1]
    raise ModelFileError(path, "model.merges", f"{str(merge)[:40]!r} is not two pieces")


def _adds_bos(path: str, processor: Any, names: Sequence[str], bos_id: int) -> bool:
    """Whether a text gets one BOS; what else a post-processor might add is refused."""
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "Sequence":
        steps = _list(path, "post_processor", processor.get("processors"))
        return any([_adds_bos(path, step, names, bos_id) for step in steps])
    if processor.get("type") == "ByteLevel":
        return False
    if processor.get("type") == "TemplateProcessing":
        parts = [_part(item) for item in _list(path, "post_processor.single", processor.get("single"))]
        if parts == [None]:
            return False
        if 0 <= bos_id < len(names) and parts == [names[bos_id], None]:
            return True
    raise ModelFileError(path, "post_processor", "adds something else than one BOS before a text")


def _part(item: Any) -> str | None:
    """Of a post-processor's template: the name of a token, None for the text, "" for anything else."""
    if not isinstance(item, dict) or len(item) != 1:
        return ""
    if "Sequence" in item:
        return None
    token = item.get("SpecialToken")
    return str(token.get("id")) if isinstance(token, dict) else ""


def _list(path: str, field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ModelFileError(path, field, "must be a list")
    return value
