"""Texts to measure on, or to gather inputs on: documents of token ids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gemlet.errors import InvalidRequestError, ModelFileError
from gemlet.formats.files import map_file, parse_json
from gemlet.text.tokenizer import Tokenizer

HELD_OUT = Path(__file__).with_name("held_out.jsonl")
"""Fourteen short documents of many kinds, which nothing is fitted to."""

DOCUMENT_TOKENS = 512
"""A longer text is cut into documents of so many tokens, each read from its own beginning."""


@dataclass(frozen=True)
class Documents:
    """`ids`: token ids, BOS first. `left_out`: tokens of the file beyond those asked for."""

    name: str
    sha256: str
    ids: tuple[tuple[int, ...], ...]
    left_out: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


def read_documents(path: Path, tokenizer: Tokenizer, tokens: int) -> Documents:
    """The documents of a file, at most `tokens` in all: JSONL with `text`, or plain text.

    Raises ModelFileError where it cannot be read, InvalidRequestError where it holds no text.
    """
    data = map_file(path).tobytes()
    if path.suffix == ".jsonl":
        texts = [
            _text(path, number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()
        ]
    else:
        try:
            texts = [data.decode()]
        except UnicodeDecodeError as error:
            raise ModelFileError(path, f"byte {error.start}", "is not UTF-8 text") from None
    pieces = []
    for text in texts:
        ids = tokenizer.encode(text, bos=False)
        step = DOCUMENT_TOKENS - 1
        pieces += [(tokenizer.bos_id, *ids[start : start + step]) for start in range(0, len(ids), step)]
    chosen, room = [], tokens
    for piece in pieces:
        if len(part := piece[:room]) > 1:
            chosen.append(part)
            room -= len(part)
    if not chosen:
        raise InvalidRequestError(f"{path}: holds no text to read")
    left_out = sum(map(len, pieces)) - (tokens - room)
    return Documents(path.name, hashlib.sha256(data).hexdigest(), tuple(chosen), left_out)


def _text(path: Path, number: int, line: bytes) -> str:
    text = parse_json(path, f"line {number}", line).get("text")
    if not isinstance(text, str):
        raise InvalidRequestError(f"{path}: line {number}: has no 'text'", hint='each line is {"text": …}')
    return text
