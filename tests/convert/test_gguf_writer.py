"""GGUF files written from GGUF files and from folders, read by ours and by the format's own reader."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gemlet.convert import staging
from gemlet.convert.gguf_values import STRING, Value
from gemlet.convert.gguf_writer import write_gguf
from gemlet.convert.tensors import encoded, values_of
from gemlet.errors import MissingExtraError, ModelFileError, OutputError
from gemlet.formats.dequantize import dequantize
from gemlet.model.sources import Source, open_source
from gemlet.text.tokenizer import Tokenizer
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf, write_tiny_hf

TEXT = "def area(width):\n    return width  # ab   c\n\nЖ, 日本 <code> \t x"


def of_gguf(folder: Path, kinds: Any = "Q8_0", **keys: Any) -> Source:
    config = tiny_config(layers=2)
    write_tiny_gguf(folder / "in.gguf", config, np.random.default_rng(0), kinds, **keys)
    return open_source(folder / "in.gguf")


def of_folder(folder: Path, **settings: Any) -> tuple[Source, dict[str, np.ndarray]]:
    weights = write_tiny_hf(folder / "in", tiny_config(layers=2), np.random.default_rng(0), **settings)
    return open_source(folder / "in"), weights


def changed(source: Source, kind: str) -> dict[str, Any]:
    return {
        name: encoded(kind, tensor.shape, values_of(tensor))
        for name, tensor in source.tensors.items()
        if len(tensor.shape) == 2
    }


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_unchanged_is_the_same_file_to_the_last_byte(tmp_path: Path) -> None:
    of_gguf(tmp_path, {"*": "Q4_0", "token_embd": "Q8_0"})
    write_gguf(tmp_path / "1.gguf", open_source(tmp_path / "in.gguf"))
    write_gguf(tmp_path / "2.gguf", open_source(tmp_path / "1.gguf"))
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    before, after = (gguf.GGUFReader(tmp_path / name) for name in ("in.gguf", "1.gguf"))
    assert set(before.fields) <= set(after.fields)
    for key, field in before.fields.items():
        if not key.startswith("GGUF."):
            assert (field.types, field.contents()) == (after.fields[key].types, after.fields[key].contents())
    for a, b in zip(before.tensors, after.tensors, strict=True):
        assert (a.name, a.tensor_type, list(a.shape)) == (b.name, b.tensor_type, list(b.shape))
        assert np.array_equal(a.data, b.data)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_changed_tensors_are_what_the_package_makes_of_the_values(tmp_path: Path, kind: str) -> None:
    source = of_gguf(tmp_path, "F32")
    written = write_gguf(tmp_path / "out.gguf", source, changed(source, kind))
    assert written.nbytes == (tmp_path / "out.gguf").stat().st_size
    number = gguf.GGMLQuantizationType[kind]
    for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors:
        stored = source.tensors[tensor.name.removesuffix(".weight")]
        if len(stored.shape) == 2:
            wanted = gguf.quants.quantize(dequantize(stored), number).view(np.uint8)
            assert tensor.tensor_type == number
            assert np.array_equal(np.asarray(tensor.data).view(np.uint8).reshape(-1), wanted.reshape(-1))
    file_type = gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"].contents()
    assert file_type == {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}[kind]


def test_a_folder_becomes_the_same_model(tmp_path: Path) -> None:
    source, weights = of_folder(tmp_path, chat_template=CHAT_TEMPLATE, dtype="BF16")
    write_gguf(tmp_path / "out.gguf", source)
    again = open_source(tmp_path / "out.gguf")
    assert again.facts.corrections == ()
    # The format holds single-precision numbers.
    assert {
        field: (getattr(source.config, field), value)
        for field, value in vars(again.config).items()
        if np.float32(getattr(source.config, field) if isinstance(value, float) else 0)
        != np.float32(value if isinstance(value, float) else 0)
        or (not isinstance(value, float) and getattr(source.config, field) != value)
    } == {}
    assert again.facts.chat_template == CHAT_TEMPLATE
    assert again.facts.sampling == source.facts.sampling
    for name, values in weights.items():
        assert np.array_equal(dequantize(again.tensors[name]), values), name
    ours, theirs = (Tokenizer.from_source(item.facts.tokenizer, tmp_path) for item in (source, again))
    assert theirs.encode(TEXT, bos=True) == ours.encode(TEXT, bos=True)


def test_known_defects_of_a_source_are_put_right_and_named(tmp_path: Path) -> None:
    wrong = {"tokenizer.ggml.add_space_prefix": None}
    source = of_gguf(tmp_path, chat_template=CHAT_TEMPLATE, metadata=wrong)
    written = write_gguf(tmp_path / "out.gguf", source)
    assert [line.split(" ")[0] for line in written.corrections] == ["stop", "add_space_prefix"]
    again = open_source(tmp_path / "out.gguf")
    assert again.facts.corrections == ()
    assert again.config == source.config
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 1
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 106
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is False


def test_the_lineage_that_a_card_names_is_written(tmp_path: Path) -> None:
    of_folder(tmp_path)
    card = "---\nlicense: gemma\nbase_model:\n- google/gemma-3-1b-it\n- you/other\n---\n# Mine\n"
    (tmp_path / "in" / "README.md").write_text(card)
    write_gguf(
        tmp_path / "out.gguf", open_source(tmp_path / "in"), metadata={"general.name": Value(STRING, "Mine")}
    )
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["general.base_model.count"].contents() == 2
    assert fields["general.base_model.0.repo_url"].contents() == "https://huggingface.co/google/gemma-3-1b-it"
    assert fields["general.base_model.1.organization"].contents() == "you"
    assert fields["general.license"].contents() == "gemma"
    assert fields["general.name"].contents() == "Mine"


def test_a_target_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    source = of_gguf(tmp_path)
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        write_gguf(tmp_path / "out.gguf", source)
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"
    write_gguf(tmp_path / "out.gguf", source, force=True)
    assert open_source(tmp_path / "out.gguf").config == source.config
    with pytest.raises(OutputError, match="read from"):
        write_gguf(tmp_path / "in.gguf", source, force=True)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    source = of_gguf(tmp_path)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise failure

    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else OutputError):
        write_gguf(tmp_path / "out.gguf", source, progress=interrupt)
    assert left_in(tmp_path) == {"in.gguf"}


def test_want_of_space_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_gguf(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(OutputError, match="are free"):
        write_gguf(tmp_path / "out.gguf", source, progress=lambda done, total: pytest.fail("began to write"))
    assert left_in(tmp_path) == {"in.gguf"}


def test_a_place_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_gguf(tmp_path)
    with pytest.raises(OutputError, match="no such folder"):
        write_gguf(tmp_path / "missing" / "out.gguf", source)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(OutputError, match="may not be written"):
        write_gguf(tmp_path / "out.gguf", source)


def test_values_too_large_for_f16_name_the_tensor(tmp_path: Path) -> None:
    source = of_gguf(tmp_path, "F32")
    outputs = changed(source, "F16")
    name = "blk.1.ffn_up"
    values = values_of(source.tensors[name])
    outputs[name] = encoded("F16", outputs[name].shape, lambda start, stop: values(start, stop) * 1e6)
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up.*too large for F16"):
        write_gguf(tmp_path / "out.gguf", source, outputs)
    assert left_in(tmp_path) == {"in.gguf"}


def test_without_the_gguf_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_gguf(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match="convert"):
        write_gguf(tmp_path / "out.gguf", source)
