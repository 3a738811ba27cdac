"""Whether a tokenizer is the original's: pieces, types, scores, ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gemlet.errors import ModelFileError
from gemlet.formats.files import file_sha256
from gemlet.formats.gguf import Strings
from gemlet.model.families import GEMMA3
from gemlet.model.folder_source import TOKENIZERS
from gemlet.provenance.check.findings import Finding
from gemlet.provenance.check.published import IMAGE_TOKEN, PIECES_SHA256, SCORES_SHA256
from gemlet.provenance.check.subject import Checkpoint
from gemlet.provenance.check.traps import trap
from gemlet.provenance.releases import by_sha256
from gemlet.text.pieces import SPACE
from gemlet.text.vocabulary import read_pieces
from gemlet.types import TokenizerSource, Vocabulary


def check_vocabulary(where: str, stated: Vocabulary, understood: Vocabulary | None) -> list[Finding]:
    """Findings about a GGUF file's vocabulary; `understood`: the same with the loader's corrections."""
    space = SPACE.encode()
    if _digest(piece.replace(b" ", space) for piece in stated.pieces()) != PIECES_SHA256:
        what = f"its {len(stated)} pieces are not the {GEMMA3.vocab_size} of the original"
        return [trap("vocabulary", where, what)]
    found = []
    if understood is not None and (wrong := int((stated.types != understood.types).sum())):
        found.append(
            trap("piece-types", f"{where}: tokenizer.ggml.token_type", f"{wrong} pieces have a wrong type")
        )
    ordinary = stated.scores[GEMMA3.expected_types() == 1].astype("<f4")
    if hashlib.sha256(ordinary.tobytes()).hexdigest() != SCORES_SHA256:
        found.append(
            trap("piece-scores", f"{where}: tokenizer.ggml.scores", "the scores are not the original's")
        )
    return found


def check_tokenizer_files(checkpoint: Checkpoint, rows: int | None) -> list[Finding]:
    """Findings about the tokenizer files of a folder; `rows`: of its embedding."""
    names = [name for name in TOKENIZERS if (checkpoint.path / name).exists()]
    found = []
    if names and "tokenizer.model" not in names:
        what = "there is tokenizer.json, but no tokenizer.model"
        found.append(trap("no-tokenizer-model", checkpoint.path, what))
    for name in names:
        file = checkpoint.path / name
        if not by_sha256(file_sha256(file)):
            found += _compare(file, name)
    return found + _beyond(checkpoint, rows)


def _compare(file: Path, name: str) -> list[Finding]:
    source = TokenizerSource(
        "sentencepiece" if TOKENIZERS[name] == "sentencepiece" else "tokenizer-json",
        str(file),
        "",
        bos_id=GEMMA3.bos_id,
    )
    try:
        pieces = read_pieces(source)
    except ModelFileError as error:
        return [trap("vocabulary", file, f"{error.field} {error.problem}")]
    if _digest(piece.encode() for piece in pieces.names[: GEMMA3.vocab_size]) != PIECES_SHA256:
        return [trap("vocabulary", file, f"its {len(pieces.names)} pieces are not those of the original")]
    return []


def _beyond(checkpoint: Checkpoint, rows: int | None) -> list[Finding]:
    """Added tokens without a row in the embedding."""
    listed = checkpoint.tokenizer.get("added_tokens_decoder")
    if rows is None or not isinstance(listed, dict):
        return []
    ids = sorted(int(id) for id in listed if str(id).isdecimal())
    where = checkpoint.path / "tokenizer_config.json"
    beyond = [id for id in ids if id >= rows]
    if beyond == [IMAGE_TOKEN] and rows == IMAGE_TOKEN:
        return [
            trap("image-token", where, f"id {IMAGE_TOKEN} has no row in the embedding, as in the original")
        ]
    if beyond:
        return [trap("token-without-row", where, f"ids {beyond[:5]} are past the embedding's {rows} rows")]
    return []


def _digest(pieces: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\n".join(pieces)).hexdigest()


def vocabulary_of(tokens: object, scores: object, types: object) -> Vocabulary | None:
    """The vocabulary in a GGUF file's metadata, None where it is not one (the loader says what is wrong)."""
    if not isinstance(tokens, Strings):
        return None
    if not isinstance(scores, np.ndarray) or not isinstance(types, np.ndarray):
        return None
    if not len(tokens.ends) == len(scores) == len(types):
        return None
    return Vocabulary(tokens.text, tokens.ends, scores.astype(np.float32), types.astype(np.int32))
