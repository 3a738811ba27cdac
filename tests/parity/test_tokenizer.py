"""The same ids as Gemma 3's own tokenizer.json on megabytes of text; the real GGUF vocabulary is the same."""

from __future__ import annotations

import bz2
import random
import sysconfig
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemlet.model.sources import open_source
from gemlet.text.tokenizer import Tokenizer
from tests.parity.real import TEXTS, Real
from tests.parity.true_tokenizer import ours, reference, reference_without_control

SPACE = "\u2581"
UNICODE_DATA = Path("/usr/share/unicode")  # Debian's unicode-data

HOSTILE = [
    "a", "ab", "aab", "=", "-", "_", "é", "日", "語", "😩", "\u200d", "\ufe0f", "\ufeff", "\ufffd", "\u0301",
    " ", "  ", "\t", "\n", "\r\n", "\x0b", "\x85", "\xa0", "\u2028", "\u3000", "\0", "\x02", "\x1b", "\x7f",
    "<", ">", "/", "<table>", "</table", "<b>", "</code>", "<unused3>", "<unused5000>", "<start_of_image>",
    "<mask>", "<bos>", "[multimodal]", "<image_soft_token>", "<0x0A>", "0", "12", "the", " the", "ing",
    "\u0627", "\u0932", "\u093f", "\U0010ffff",
]  # fmt: skip

GOLDEN = [
    ("Hello, world!", [9259, 236764, 1902, 236888]),
    ("def f(x):\n    return x", [2063, 517, 236769, 236781, 1473, 107, 140, 2060, 1123]),
    ("日本語 😩", [94951, 236743, 245978]),
    ("a  b   c", [236746, 138, 236763, 139, 236755]),
    (" " * 40 + "x\t\t\ty<code>z</code>", [167, 145, 236781, 255970, 236762, 206, 236802, 215]),
]


@pytest.fixture(scope="module")
def real_tokenizer(real: Real) -> Tokenizer:
    return Tokenizer.from_source(open_source(real.path).facts.tokenizer, real.cache_dir)


@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_golden_encodings(real_tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert real_tokenizer.encode(text) == ids
    assert real_tokenizer.encode(text, bos=True) == [2, *ids]
    assert real_tokenizer.decode(ids) == text


def test_control_tokens_of_the_real_vocabulary(real_tokenizer: Tokenizer) -> None:
    control = {*range(5), *range(6, 107), 255999, 256000, *range(256001, 262144)}
    assert {i for i in range(real_tokenizer.vocab_size) if real_tokenizer.is_control(i)} == control


def test_the_gguf_vocabulary_and_the_json_are_one_tokenizer(
    real_tokenizer: Tokenizer, true_tokenizer: Path
) -> None:
    assert real_tokenizer.sha256 == ours(true_tokenizer).sha256


def standard_library() -> Iterator[str]:
    """A megabyte and a half of Python source."""
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text)
        yield text
        if size > 1_500_000:
            return


def prose() -> Iterator[str]:
    for path in TEXTS.values():
        yield path.read_text(encoding="utf-8")


def whitespace() -> Iterator[str]:
    rng = random.Random(1)
    for _ in range(3000):
        parts = [rng.choice(" \t\n\r") * rng.choice([1, 1, 2, 3, 30, 31, 32, 33, 70]) for _ in range(9)]
        yield "".join(part + rng.choice(["", "", "x", "return", "é", "{"]) for part in parts)


def normalisation() -> Iterator[str]:
    """Every assigned character as it is and in its four normal forms, by thousands, and between letters."""
    characters = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cs", "Cn", "Co")]
    characters.remove(SPACE)
    for start in range(0, len(characters), 1000):
        part = "".join(characters[start : start + 1000])
        yield part
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            if (normal := unicodedata.normalize(form, part)) != part:
                yield normal
    for start in range(0, 0x3000, 256):
        yield "".join(f"a{c}b {c}" for c in characters[start : start + 256])


def scripts() -> Iterator[str]:
    """Words of random letters of one script at a time, with its digits and marks."""
    rng = random.Random(2)
    blocks = [0x41, 0xC0, 0x370, 0x400, 0x530, 0x5D0, 0x620, 0x900, 0x980, 0xA80, 0xB80, 0xC00, 0xD00, 0xE00]
    blocks += [0x10A0, 0x1200, 0x1780, 0x3040, 0x30A0, 0x4E00, 0x6F00, 0xAC00, 0xC800, 0x1F300, 0x1F600]
    for block in blocks:
        letters = [chr(block + i) for i in range(90) if unicodedata.category(chr(block + i)) != "Cn"]
        yield " ".join("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(1500))


def random_text() -> Iterator[str]:
    rng = random.Random(3)
    for _ in range(3000):
        some = rng.sample(HOSTILE, rng.choice([1, 2, 3, 5, 20]))
        yield "".join(rng.choice(some) * rng.choice([1, 1, 1, 2, 3, 40]) for _ in range(rng.randint(1, 30)))
    for _ in range(300):
        codes = (rng.choice([rng.randrange(0x250), rng.randrange(0x110000)]) for _ in range(300))
        yield "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000 and chr(code) != SPACE)


CORPORA = [standard_library, prose, whitespace, normalisation, scripts, random_text]


@pytest.mark.parametrize("corpus", CORPORA)
def test_ids_are_those_of_the_true_tokenizer(
    true_tokenizer: Path, corpus: Callable[[], Iterator[str]]
) -> None:
    check(true_tokenizer, list(corpus()))


@pytest.mark.parametrize("name", ["NormalizationTest.txt.bz2", "emoji/emoji-test.txt"])
def test_ids_on_the_unicode_test_files(true_tokenizer: Path, name: str) -> None:
    path = UNICODE_DATA / name
    if not path.is_file():
        pytest.skip(f"the Debian package unicode-data is not installed: no {path}")
    data = path.read_bytes()
    check(true_tokenizer, [(bz2.decompress(data) if path.suffix == ".bz2" else data).decode()])


def check(folder: Path, texts: list[str]) -> None:
    tokenizer = ours(folder)
    expected = reference_without_control(folder).encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, expected, strict=True):
        ids = tokenizer.encode(text)
        if ids != encoding.ids:
            at = next(k for k, pair in enumerate(zip(ids, encoding.ids, strict=False)) if pair[0] != pair[1])
            pytest.fail(f"{ids[at - 3 : at + 4]}, not {encoding.ids[at - 3 : at + 4]}, near {text[:200]!r}")
        assert tokenizer.decode(ids) == text


def test_the_corpora_are_two_megabytes() -> None:
    assert sum(len(text.encode()) for corpus in CORPORA for text in corpus()) >= 2_000_000


def test_decoding_is_that_of_the_true_tokenizer(true_tokenizer: Path) -> None:
    rng = random.Random(4)
    oracle = reference(true_tokenizer)
    for _ in range(1000):
        # Whole pieces only: the oracle's way with incomplete characters is its own.
        ids = [rng.choice([rng.randrange(107, 238), rng.randrange(494, 255999)]) for _ in range(20)]
        assert ours(true_tokenizer).decode(ids) == oracle.decode(ids, skip_special_tokens=False)


def test_encoding_is_fast(real_tokenizer: Tokenizer) -> None:
    text = "".join(standard_library())
    start = time.perf_counter()
    real_tokenizer.encode(text)
    megabytes = len(text.encode()) / 1e6
    # 5 to 7 MB/s on one quiet core; the rest is room for a busy machine.
    assert megabytes / (time.perf_counter() - start) > 1.0
