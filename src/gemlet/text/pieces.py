"""The pieces of a tokenizer, checked, and the SentencePiece model that holds exactly them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gemlet.errors import ModelFileError
from gemlet.text.protobuf import bytes_field, float_field, read_fields, varint_field

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"
"""How pieces spell a space."""

MAX_PIECES = 1 << 21
MAX_PIECE_BYTES = 1 << 12

CUT = re.compile(r"(?<=\n)(?!\n)|(?<=[\w.,;:]) ")
"""Where a text may be cut without changing its ids: after a run of newlines, before a word's next space."""

_CONTROL_NAME = re.compile(r"<(pad|eos|bos|unk|mask|unused\d+|(start|end)_of_[a-z]+|image_soft_token)>")
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")


class Field:
    """Field numbers of a SentencePiece model, of a piece, and of the trainer's and normaliser's parts."""

    PIECES, TRAINER, NORMALIZER = 1, 2, 3
    PIECE, SCORE, TYPE = 1, 2, 3
    MODEL_TYPE, VOCAB_SIZE, SPLIT_BY_WHITESPACE, SPACE_AS_SUFFIX, BYTE_FALLBACK = 3, 4, 22, 24, 35
    UNK_ID, BOS_ID, UNK_PIECE, BOS_PIECE = 40, 41, 45, 46
    NAME, CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 1, 2, 3, 4, 5


BPE = 2
"""The value of MODEL_TYPE."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Every piece in id order, spaces spelled as U+2581.

    `scores`: float64, of two possible merges the higher one is first; they matter only for ordinary pieces of
    several characters. `types`: int32, the constants of this module.
    """

    names: list[str]
    scores: np.ndarray
    types: np.ndarray
    unknown_id: int
    bos_id: int


@dataclass(frozen=True)
class Header:
    """What a model written by `write_model` says of itself. `may_cut`: no piece crosses a cut."""

    vocab_size: int
    bos_id: int
    may_cut: bool


def is_control_name(name: str) -> bool:
    """Whether this is a control piece's name, whatever type a file gives it: files disagree about these."""
    return _CONTROL_NAME.fullmatch(name) is not None


def byte_value(name: str) -> int | None:
    """The byte that a piece such as <0x0A> stands for, None for any other piece."""
    match = _BYTE_NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def checked(path: str, pieces: Pieces) -> Pieces:
    """The pieces with control names typed as control and one unknown piece. Raises ModelFileError."""
    names, types = pieces.names, np.array(pieces.types, np.int32)
    count = len(names)
    if not 0 < count <= MAX_PIECES or len(types) != count or len(pieces.scores) != count:
        problem = f"has {count} pieces, {len(types)} types and {len(pieces.scores)} scores"
        raise ModelFileError(path, "vocabulary", problem)
    for field, value in (("bos_token_id", pieces.bos_id), ("unknown_token_id", pieces.unknown_id)):
        if not 0 <= value < count:
            raise ModelFileError(path, field, f"is {value}, outside the vocabulary of {count} pieces")
    _check_names(path, names)
    types[types == UNKNOWN] = CONTROL
    types[[i for i, name in enumerate(names) if name[0] == "<" and is_control_name(name)]] = CONTROL
    types[pieces.bos_id] = CONTROL
    types[pieces.unknown_id] = UNKNOWN
    if not np.isin(types, (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE)).all():
        raise ModelFileError(path, "token types", "hold a type that is not 1 to 6")
    if {byte_value(names[i]) for i in np.flatnonzero(types == BYTE).tolist()} != set(range(256)):
        raise ModelFileError(path, "vocabulary", "does not hold one piece for each of the 256 bytes")
    if not np.isfinite(pieces.scores[types == NORMAL]).all():
        raise ModelFileError(path, "scores", "hold a value that is not finite")
    return replace(pieces, types=types)


def _check_names(path: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if not name or "\0" in name or len(name) > MAX_PIECE_BYTES:
            raise ModelFileError(path, f"piece {i}", "is empty, longer than 4096 characters, or holds a NUL")
    if len(set(names)) != len(names):
        seen: dict[str, int] = {}
        for i, name in enumerate(names):
            if (first := seen.setdefault(name, i)) != i:
                raise ModelFileError(path, f"piece {i}", f"is {name!r}, as piece {first} is")


def write_model(pieces: Pieces) -> bytes:
    """The SentencePiece model of checked pieces: BPE with byte fallback, nothing normalised, no dummy prefix.

    Scores are written as ranks and only where they matter: one vocabulary gives one model, whatever its file.
    """
    trainer = b"".join(
        [
            varint_field(Field.MODEL_TYPE, BPE),
            varint_field(Field.VOCAB_SIZE, len(pieces.names)),
            varint_field(Field.SPLIT_BY_WHITESPACE, _may_cut(pieces)),
            varint_field(Field.BYTE_FALLBACK, True),
            varint_field(Field.UNK_ID, pieces.unknown_id),
            varint_field(Field.BOS_ID, pieces.bos_id),
            bytes_field(Field.UNK_PIECE, pieces.names[pieces.unknown_id].encode()),
            bytes_field(Field.BOS_PIECE, pieces.names[pieces.bos_id].encode()),
        ]
    )
    flags = {Field.DUMMY_PREFIX: False, Field.REMOVE_SPACES: False, Field.ESCAPE_SPACES: True}
    normalizer = bytes_field(Field.NAME, b"identity")
    normalizer += b"".join(varint_field(number, value) for number, value in flags.items())
    parts = [bytes_field(Field.TRAINER, trainer), bytes_field(Field.NORMALIZER, normalizer)]
    types = {kind: varint_field(Field.TYPE, kind) for kind in range(NORMAL, BYTE + 1)}
    for name, score, kind in zip(pieces.names, _ranks(pieces).tolist(), pieces.types.tolist(), strict=True):
        piece = bytes_field(Field.PIECE, name.encode()) + float_field(Field.SCORE, score) + types[kind]
        parts.append(bytes_field(Field.PIECES, piece))
    return b"".join(parts)


def read_header(model: bytes) -> Header:
    """The head of a model that `write_model` wrote. Raises ValueError for anything else."""
    number, trainer = next(read_fields(model), (0, b""))
    if number != Field.TRAINER or not isinstance(trainer, bytes):
        raise ValueError("the model was not written by gemlet")
    values: dict[int, Any] = dict(read_fields(trainer))
    try:
        return Header(
            vocab_size=values[Field.VOCAB_SIZE],
            bos_id=values[Field.BOS_ID],
            may_cut=bool(values[Field.SPLIT_BY_WHITESPACE]),
        )
    except KeyError as error:
        raise ValueError(f"the model has no field {error}") from None


def _ranks(pieces: Pieces) -> np.ndarray:
    several = np.array([len(name) > 1 for name in pieces.names])
    merged = several & (pieces.types == NORMAL)
    ranks = np.zeros(len(pieces.names))
    ranks[merged] = -np.unique(-pieces.scores[merged], return_inverse=True)[1]
    return ranks


def _may_cut(pieces: Pieces) -> bool:
    """Whether no piece that text can become has a place for a cut inside it."""
    found = np.flatnonzero(np.isin(pieces.types, (NORMAL, USER_DEFINED, UNUSED))).tolist()
    texts = (pieces.names[i].replace(SPACE, " ") for i in found)
    return not any(match.start() < len(text) for text in texts for match in CUT.finditer(text))
