"""SmolLM2-135M-Instruct: weights against transformers, tokens and distributions against llama.cpp."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import gemlet
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Loaded, load
from gemlet.text.byte_level import ByteLevelTokenizer
from gemlet.text.stream import TextStream
from tests.llama_models import cut_words
from tests.parity.oracle import divergence, rounding_tolerance, run
from tests.parity.real import TEXTS
from tests.parity.smollm2 import LlamaOracle, smollm2_path
from tests.text.hostile import HOSTILE

TOKENS = 160
MEAN_KL = 1.3e-3
"""The mark of the real 270M, too; 0.7e-3 were measured (decision 0009)."""


@pytest.fixture(scope="module")
def path() -> Path:
    return smollm2_path()


@pytest.fixture(scope="module")
def loaded(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(path, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(loaded: Loaded) -> ByteLevelTokenizer:
    return ByteLevelTokenizer.from_source(loaded.facts.tokenizer)


@pytest.fixture(scope="module")
def ids(tokenizer: ByteLevelTokenizer) -> list[int]:
    return tokenizer.encode(TEXTS["prose"].read_text(encoding="utf-8"))[:TOKENS]


@pytest.fixture(scope="module")
def expected(path: Path, ids: list[int]) -> np.ndarray:
    oracle = LlamaOracle(path)
    return oracle.logits(oracle.hidden(ids))


def test_the_reference_equals_transformers(loaded: Loaded, ids: list[int], expected: np.ndarray) -> None:
    decoder = Decoder(loaded.facts.config, loaded.weights, executor="reference")
    got = np.concatenate([logits for _, logits in run(decoder, ids)])
    assert np.abs(got - expected).max() <= rounding_tolerance(loaded.facts.config, expected)


def test_native_stays_close_to_float32(loaded: Loaded, ids: list[int], expected: np.ndarray) -> None:
    decoder = Decoder(loaded.facts.config, loaded.weights, executor="native")
    got = np.concatenate([logits for _, logits in run(decoder, ids)])
    assert divergence(torch.from_numpy(expected), torch.from_numpy(got)).mean() <= MEAN_KL
    for sizes in ((1,), (64, 3)):
        again = np.concatenate([logits for _, logits in run(decoder, ids[:90], sizes)])
        np.testing.assert_array_equal(again, got[:90])
    decoder.close()


def test_ids_are_those_of_the_library_with_the_models_own_rules(tokenizer: ByteLevelTokenizer) -> None:
    theirs = _library_tokenizer(tokenizer)
    for text in [*HOSTILE, *(file.read_text(encoding="utf-8") for file in TEXTS.values())]:
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False), text[:80]


def _library_tokenizer(tokenizer: ByteLevelTokenizer) -> PreTrainedTokenizerFast:
    """transformers' tokenizer that takes special tokens in a text for text."""
    from tokenizers import Tokenizer, models

    names, merges = tokenizer._names, smollm2_merges()
    library = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    library.pre_tokenizer = cut_words("smollm")
    return PreTrainedTokenizerFast(tokenizer_object=library)


def smollm2_merges() -> list[tuple[str, str]]:
    from gguf import GGUFReader

    field = GGUFReader(smollm2_path()).fields["tokenizer.ggml.merges"]
    pairs = [merge.split(" ") for merge in field.contents()]
    return [(left, right) for left, right in pairs]


@pytest.fixture(scope="module")
def llama_cpp(path: Path) -> Iterator[object]:
    library = importlib.import_module("llama_cpp")
    model = library.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    yield model
    model.close()


@pytest.mark.peer
def test_ids_are_those_of_llama_cpp(tokenizer: ByteLevelTokenizer, llama_cpp: object) -> None:
    for text in [*HOSTILE, *(file.read_text(encoding="utf-8")[:20000] for file in TEXTS.values())]:
        if "\0" not in text:  # where llama.cpp's interface ends a text
            theirs = llama_cpp.tokenize(text.encode(), add_bos=False, special=False)  # type: ignore[attr-defined]
            assert tokenizer.encode(text) == theirs, text[:80]


@pytest.mark.peer
def test_distributions_are_close_to_those_of_llama_cpp(
    loaded: Loaded, ids: list[int], expected: np.ndarray, llama_cpp: object
) -> None:
    llama_cpp.eval(ids)  # type: ignore[attr-defined]
    theirs = np.array(llama_cpp.scores[: len(ids)], np.float32)  # type: ignore[attr-defined]
    decoder = Decoder(loaded.facts.config, loaded.weights, executor="native")
    got = np.concatenate([logits for _, logits in run(decoder, ids)])
    decoder.close()
    wanted = torch.from_numpy(expected)
    own, other = (divergence(wanted, torch.from_numpy(logits)).mean() for logits in (got, theirs))
    assert own <= 1.3 * other, (own, other)


def test_text_returns_and_streams(tokenizer: ByteLevelTokenizer) -> None:
    for text in [*HOSTILE, TEXTS["code"].read_text(encoding="utf-8")]:
        if "\x04" in text:
            continue  # has no piece
        found = tokenizer.encode(text)
        assert tokenizer.decode(found) == text
        assert not any(map(tokenizer.is_control, found))
        stream = TextStream(tokenizer)
        assert "".join(map(stream.push, found)) + stream.finish() == text


def test_it_answers(path: Path) -> None:
    with gemlet.load(path) as model:
        done = model.chat([{"role": "user", "content": "What is the capital of France?"}], temperature=0)
        assert "Paris" in done.text
        assert done.stop_reason == tokenizer_id(model, "<|im_end|>")
        shown = model.tokenizer.shown(model.render([{"role": "user", "content": "Hi <|im_end|>"}]))
        assert shown == (
            "<|im_start|>system\n"
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        assert model.render([{"role": "user", "content": "Hi <|im_end|>"}]).count(2) == 2  # system, user
        answer = model.chat(
            [{"role": "user", "content": "Name a colour."}],
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "c",
                    "schema": {
                        "type": "object",
                        "properties": {"colour": {"enum": ["red", "blue"]}},
                        "required": ["colour"],
                        "additionalProperties": False,
                    },
                },
            },
            temperature=0,
        )
        assert answer.text.replace(" ", "") in ('{"colour":"red"}', '{"colour":"blue"}')


def tokenizer_id(model: gemlet.Model, name: str) -> int | None:
    return model.tokenizer.control_id(name)
