"""SmolLM2 exported: what transformers and llama.cpp make of the folder, and of the file made from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gemlet.convert.export import Order, export, gguf_changes
from gemlet.convert.gguf_writer import write_gguf
from gemlet.convert.logits import TEXT, llama_cpp_logits, mean_divergence
from gemlet.model.sources import Source, open_source
from gemlet.text.tokenizer import Tokenizer
from tests.adapters import random_adapter
from tests.parity.oracle import rounding_tolerance
from tests.parity.real import TEXTS
from tests.parity.smollm2 import LlamaOracle, smollm2_path


@dataclass(frozen=True)
class SmolLM2:
    """The real file, and what float32 makes of the built-in text of exports."""

    source: Source
    tokenizer: Tokenizer
    ids: list[int]
    expected: np.ndarray


@pytest.fixture(scope="module")
def smollm2() -> SmolLM2:
    source = open_source(smollm2_path())
    tokenizer = Tokenizer.from_source(source.facts.tokenizer)
    oracle, ids = LlamaOracle(smollm2_path()), tokenizer.encode(TEXT, bos=True)
    return SmolLM2(source, tokenizer, ids, oracle.logits(oracle.hidden(ids)))


@pytest.fixture(scope="module")
def folder(smollm2: SmolLM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in float32."""
    path = tmp_path_factory.mktemp("exported") / "smollm2"
    export(smollm2.source, "smollm2", Order(path, "transformers", "f32"))
    return path


def logits_of(folder: Path, ids: list[int]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    with torch.inference_mode():
        values: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return values


def test_transformers_gives_the_same_ids(smollm2: SmolLM2, folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    for path in TEXTS.values():
        text = path.read_text(encoding="utf-8")
        assert theirs(text)["input_ids"] == smollm2.tokenizer.encode(text, bos=True)
    messages = [{"role": "user", "content": "Name a colour."}]
    shown = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown.endswith("<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n")


def test_float32_logits_are_those_of_the_source(smollm2: SmolLM2, folder: Path) -> None:
    found = logits_of(folder, smollm2.ids)
    room = rounding_tolerance(smollm2.source.config, smollm2.expected)
    assert np.abs(found - smollm2.expected).max() <= room


def test_sixteen_bits_lose_next_to_nothing(smollm2: SmolLM2, tmp_path: Path) -> None:
    export(smollm2.source, "smollm2", Order(tmp_path / "out", "transformers", check=False))
    assert mean_divergence(smollm2.expected, logits_of(tmp_path / "out", smollm2.ids)) <= 2e-3


@pytest.mark.peer
def test_a_file_from_the_folder_is_the_model_in_llama_cpp(
    smollm2: SmolLM2, folder: Path, tmp_path: Path
) -> None:
    export(open_source(folder), "smollm2", Order(tmp_path / "out.gguf", "gguf", check=False))
    found = llama_cpp_logits(tmp_path / "out.gguf")
    assert list(found.ids) == smollm2.ids
    assert mean_divergence(smollm2.expected, found.logits) < 1e-5  # it keeps keys and values in 16 bits
    assert (found.logits.argmax(-1) == smollm2.expected.argmax(-1)).all()


@pytest.mark.peer
def test_files_lose_in_llama_cpp_what_their_types_lose(smollm2: SmolLM2, tmp_path: Path) -> None:
    def loss(kind: str | None) -> float:
        path = tmp_path / f"{kind}.gguf"
        write_gguf(path, smollm2.source, gguf_changes(smollm2.source, kind, {}))
        return mean_divergence(smollm2.expected, llama_cpp_logits(path).logits)

    stored = mean_divergence(smollm2.expected, llama_cpp_logits(smollm2_path()).logits)
    assert loss(None) <= stored
    # Values that Q4_1 holds exactly are rounded once more, with scales that fit them.
    assert loss("Q8_0") <= 1.3 * stored


@pytest.mark.peer
def test_an_adapter_merged_and_apart_is_the_same_model(smollm2: SmolLM2, tmp_path: Path) -> None:
    """The rows of queries and keys are in another order in the file, and those of the adapter with them."""
    adapter = random_adapter(tmp_path / "tuned", smollm2.source.config, seed=3)
    export(smollm2.source, "m", Order(tmp_path / "merged.gguf", "gguf", "f32", check=False), adapter=adapter)
    apart = Order(tmp_path / "base.gguf", "gguf", "f32", apart=True, check=False)
    export(smollm2.source, "m", apart, adapter=adapter)
    merged = llama_cpp_logits(tmp_path / "merged.gguf").logits
    beside = llama_cpp_logits(tmp_path / "base.gguf", tmp_path / "base-adapter.gguf").logits
    assert mean_divergence(merged, smollm2.expected) > 0.05
    assert mean_divergence(merged, beside) < 1e-5
