"""Exports of real and of Llama-kind weights: the same bytes, ids and logits in the programs they are for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer as TheirTokenizer

from gemlet.convert.export import Order, export
from gemlet.convert.gguf_writer import write_gguf
from gemlet.convert.logits import expected_logits, llama_cpp_logits, mean_divergence
from gemlet.convert.tokenizer_files import tokenizer_files
from gemlet.formats.gguf import read_gguf
from gemlet.model.adapters import read_adapter
from gemlet.model.sources import open_source
from tests.adapters import random_adapter
from tests.llama_models import WORDS, save_gguf, tiny_model
from tests.parity.real import TEXTS, Real


def test_the_real_file_is_written_again_to_the_last_byte(real: Real, tmp_path: Path) -> None:
    """Its publisher used the same package: nothing that it wrote is lost, moved or added."""
    write_gguf(tmp_path / "out.gguf", open_source(real.path))
    assert _sha256(tmp_path / "out.gguf") == _sha256(real.path)


def test_tokenizer_json_of_the_real_vocabulary_gives_equal_ids(real: Real) -> None:
    theirs = TheirTokenizer.from_str(tokenizer_files(open_source(real.path))["tokenizer.json"].decode())
    samples = [path.read_text(encoding="utf-8") for path in TEXTS.values()]
    samples += [" " * 40 + "x\t\t\ty<code>z</code>", "a  b   c\n\n\n\td  \n", "日本語 😩 e\u0301 \u00a0"]
    for text in samples:
        assert theirs.encode(text).ids == real.tokenizer.encode(text, bos=True)


@pytest.mark.parametrize("kind", ["llama3", "qwen2"])
def test_the_llama_kind_keeps_its_order_of_rows(kind: str, tmp_path: Path) -> None:
    """Also in llama.cpp, where that is installed: the check of the export computes a text with it."""
    save_gguf(tmp_path / "in.gguf", tiny_model(kind), WORDS[kind])
    source = open_source(tmp_path / "in.gguf")
    result = export(source, "in.gguf", Order(tmp_path / "out.gguf", "gguf", "bf16"))
    assert result.loss is not None and 0 < result.loss < 2.0**-8
    export(source, "in.gguf", Order(tmp_path / "same.gguf", "gguf"))
    before, after = (read_gguf(tmp_path / name).tensors for name in ("in.gguf", "same.gguf"))
    assert list(after) == list(before)  # those that are no weights too: Llama 3's divisors
    for name, tensor in before.items():
        assert after[name].data.tobytes() == tensor.data.tobytes(), name


@pytest.mark.peer
def test_llama_cpp_adds_the_adapter_that_lies_apart(real: Real, tmp_path: Path) -> None:
    """As MODEL+ADAPTER computes it here: the file, read by llama.cpp's `--lora`, changes the same."""
    source = open_source(real.path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3)
    order = Order(tmp_path / "out.gguf", "gguf", apart=True)
    result = export(source, "model", order, adapter=adapter)
    assert result.adapter_logits is not None and result.logits is not None
    parts = read_adapter(adapter, source.config)
    ids, expected = expected_logits(source, parts)
    without = expected_logits(source, None)[1]
    found = llama_cpp_logits(real.path, tmp_path / "out-adapter.gguf")
    assert found.ids == ids
    effect, difference = mean_divergence(expected, without), mean_divergence(expected, found.logits)
    # 4.3 and 0.046 nats: the model alone, which is less sensitive, shows 0.01 in llama.cpp.
    assert difference < 0.02 * effect
    assert difference == pytest.approx(result.adapter_logits.mean_kl)
    # Without, or with another scale, it would be far off.
    assert mean_divergence(expected, llama_cpp_logits(real.path).logits) > 0.5 * effect


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
