"""Text to token ids and back, by SentencePiece."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import sentencepiece

from gemlet.errors import InvalidRequestError, ModelFileError, TextError
from gemlet.formats.files import replaced_file
from gemlet.text.pieces import CUT, SPACE, Pieces, byte_value, checked, read_header, write_model
from gemlet.text.vocabulary import pieces_of_model, read_pieces
from gemlet.types import TokenizerSource

CACHE_VERSION = 1
"""Part of the cached model's name; to be raised when another model is written for the same vocabulary."""

_LONG = 4096
"""Characters. Longer texts are encoded part by part: three times as fast, since a part stays in the cache."""


def check_text(text: str, where: str) -> None:
    """Raise TextError unless it is text without half of a surrogate pair; `where` names it in the message."""
    if not isinstance(text, str):
        raise TextError(f"{where}: must be text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        problem = f"character {error.start} is U+{code:04X}, half of a surrogate pair, which is not text"
        raise TextError(f"{where}: {problem}") from None


class Tokenizer:
    """A BPE tokenizer with byte fallback. Safe to use from several threads.

    `model` is a SentencePiece model as this class keeps it; a `from_` method takes anything else.
    `sha256` identifies the vocabulary: it is the same whichever kind of file the vocabulary was read from.
    `adds_bos`: whether `encode` puts a BOS before a text when asked; not every family's models know one.
    """

    adds_bos = True
    bos_id: int
    sha256: str
    vocab_size: int

    def __init__(self, model: bytes) -> None:
        header = read_header(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"SentencePiece refuses the model: {error}") from None
        self.vocab_size = self._processor.vocab_size()
        self.bos_id = header.bos_id
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._may_cut = header.may_cut
        self._pieces: dict[int, bytes] = {}
        if self.vocab_size != header.vocab_size:
            raise ValueError(f"the model has {self.vocab_size} pieces, its head says {header.vocab_size}")

    @classmethod
    def from_source(cls, source: TokenizerSource, cache_dir: Path | None = None) -> Tokenizer:
        """The tokenizer of a model. With a cache folder the conversion is kept there and done once.

        Raises ModelFileError naming file and field, MissingExtraError for one that needs another library.
        """
        if source.algorithm == "byte-bpe":
            from gemlet.text.byte_level import ByteLevelTokenizer

            return ByteLevelTokenizer.from_source(source)
        if cache_dir is None:
            return cls._of(read_pieces(source), source.path)[0]
        path = cache_dir / "tokenizers" / f"{source.sha256}-{CACHE_VERSION}.model"
        try:
            return cls(path.read_bytes())
        except (OSError, ValueError):  # not there, or cut off: made again
            tokenizer, model = cls._of(read_pieces(source), source.path)
        with suppress(OSError), replaced_file(path) as file:  # a cache that cannot be written only costs time
            file.write(model)
        return tokenizer

    @classmethod
    def from_sentencepiece(cls, model: bytes, name: str = "tokenizer.model") -> Tokenizer:
        """The tokenizer of a tokenizer.model file's bytes; `name` is the file's name in errors."""
        return cls._of(pieces_of_model(model, name), name)[0]

    @classmethod
    def _of(cls, pieces: Pieces, path: str) -> tuple[Tokenizer, bytes]:
        model = write_model(checked(path, pieces))
        try:
            return cls(model), model
        except ValueError as error:
            raise ModelFileError(path, "vocabulary", str(error)) from None

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Token ids of a text, after one BOS if asked. Control tokens are never among them.

        Raises TextError for what is not text, or holds half of a surrogate pair.
        """
        check_text(text, "text")
        ids = [self.bos_id] if bos else []
        start = 0
        while self._may_cut and len(text) - start > _LONG:
            cut = CUT.search(text, start + _LONG)
            if cut is None:
                break
            ids += self._processor.encode(text[start : cut.start()])
            start = cut.start()
        ids += self._processor.encode(text[start:])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids. Control tokens have none; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def shown(self, ids: Iterable[int]) -> str:
        """`decode` for people to read: control tokens by their names, as texts that hold them look too."""
        pieces = (
            self._name(token_id).encode() if self.is_control(token_id) else self.piece(token_id)
            for token_id in ids
        )
        return b"".join(pieces).decode(errors="replace")

    def piece(self, token_id: int) -> bytes:
        """The exact bytes a token stands for, b"" for a control token. Raises InvalidRequestError."""
        token_id = operator.index(token_id)
        known = self._pieces.get(token_id)
        if known is None:
            known = self._pieces[token_id] = self._look_up(token_id)
        return known

    def is_control(self, token_id: int) -> bool:
        """Whether a token is a signal and not text. Raises InvalidRequestError."""
        token_id = self._checked_id(token_id)
        return bool(self._processor.is_control(token_id) or self._processor.is_unknown(token_id))

    def control_id(self, name: str) -> int | None:
        """The id of the control token of this name, None when there is none."""
        token_id = self._processor.piece_to_id(name)
        return token_id if self._processor.is_control(token_id) else None

    def _name(self, token_id: int) -> str:
        return str(self._processor.id_to_piece(token_id))

    def _look_up(self, token_id: int) -> bytes:
        if self.is_control(token_id):
            return b""
        name: str = self._processor.id_to_piece(token_id)
        if self._processor.is_byte(token_id):
            return bytes([byte_value(name) or 0])
        return name.replace(SPACE, " ").encode()

    def _checked_id(self, token_id: int) -> int:
        token_id = operator.index(token_id)
        if not 0 <= token_id < self.vocab_size:
            raise InvalidRequestError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return token_id
