"""A trained SentencePiece model of a few hundred pieces whose first 494 ids are laid out as Gemma's are."""

from __future__ import annotations

import functools
import io

import numpy as np
import sentencepiece

TURNS = ("<start_of_turn>", "<end_of_turn>")
REAL_VOCABULARIES = range(560, 8001)
"""Outside these sizes a synthetic vocabulary is a list of names without a tokenizer behind it."""


_CORPUS = """
The sea is blue because it takes the red light out of the sun. A model reads text and says what comes next.
def area(width, height): return width * height
for name in names: print(name, len(name), sum(values) / 2.5)
Wer nachts am Fluss steht, hört das Wasser. La nuit est claire et le vent se lève. 日本語のテキスト。
Привет, мир! Numbers such as 1984, 3.14159 and 0xff; signs such as (a + b) * {c} - [d] != "e" and 'f'.
""".strip()


def _made_up_words(lines: int) -> list[str]:
    """Words of random syllables: enough different pairs for a vocabulary of several thousand pieces."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return [" ".join("".join(rng.choice(syllables, n)) for n in rng.integers(2, 5, 40)) for _ in range(lines)]


def _meta_pieces() -> tuple[list[str], list[str]]:
    """Gemma's control pieces 4..106 and its user-defined pieces 107..237."""
    control = ["<mask>", "[multimodal]", *(f"<unused{i}>" for i in range(99)), *TURNS]
    tags = [
        "table",
        "caption",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
    ]
    tags += [
        "blockquote",
        "strong",
        "em",
        "b",
        "i",
        "u",
        "s",
        "sub",
        "sup",
        "code",
        "a",
        "p",
        "ul",
        "ol",
        "li",
    ]
    user = ["\n" * n for n in range(1, 32)] + ["\u2581" * n for n in range(2, 32)]
    closing = [f"<{slash}{tag}>" for slash in ("", "/") for tag in tags]
    return control, (user + closing + [f"<tag{i}>" for i in range(131)])[:131]


@functools.cache
def tiny_tokenizer(size: int) -> bytes:
    """A SentencePiece model of `size` pieces whose first 494 ids are laid out as Gemma's are."""
    control, user = _meta_pieces()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*_CORPUS.splitlines(), *_made_up_words(60)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=control,
        user_defined_symbols=user,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def tiny_vocabulary(size: int) -> tuple[tuple[str, ...], tuple[float, ...], tuple[int, ...]]:
    """Pieces, scores and types as a GGUF file lists them."""
    if size not in REAL_VOCABULARIES:
        named = ("<pad>", "<eos>", "<bos>", "<unk>")
        pieces = tuple(named[i] if i < 4 else f"w{i}" for i in range(size))
        return pieces, tuple(-float(i) for i in range(size)), tuple(3 if i < 4 else 1 for i in range(size))
    model = sentencepiece.SentencePieceProcessor(model_proto=tiny_tokenizer(size))
    control, user = _meta_pieces()
    types = [3] * (4 + len(control)) + [4] * len(user) + [6] * 256
    types += [1] * (size - len(types))
    pieces = [model.id_to_piece(i) for i in range(size)]
    pieces = [piece.replace("\u2581", " ") if types[i] == 4 else piece for i, piece in enumerate(pieces)]
    scores = [-1000.0 if types[i] in (3, 4) else model.get_score(i) for i in range(size)]
    return tuple(pieces), tuple(scores), tuple(types)
