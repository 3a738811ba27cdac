"""Exports of tiny models: what the programs they are for make of them; seeded faults must be found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gemlet.convert import export as export_module
from gemlet.convert import folder_writer, gguf_metadata, gguf_writer
from gemlet.convert.export import Exported, Order, export
from gemlet.convert.gguf_values import U32, Value
from gemlet.convert.tensors import OutputTensor, encoded
from gemlet.convert.verify import ExportFaultError
from gemlet.errors import InvalidRequestError, ModelFileError, OutputError
from gemlet.evaluate.transformers_logits import transformers_logits
from gemlet.formats.dequantize import dequantize
from gemlet.formats.gguf import read_gguf
from gemlet.model.config import ModelConfig
from gemlet.model.sources import Source, open_source
from gemlet.provenance.licences import GEMMA_NOTICE
from gemlet.provenance.manifest import changed_files, read_manifest
from tests.adapters import random_adapter
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf, write_tiny_hf

RNG = 11


def tiny(folder: Path, kinds: Any = "F32", **changes: Any) -> Source:
    """A chat model that llama.cpp and transformers open too: what they take for granted is so."""
    config = tiny_config(layers=7, head_dim=32, **changes)
    keys = {"chat_template": CHAT_TEMPLATE, "metadata": {"tokenizer.ggml.eot_token_id": 106}}
    write_tiny_gguf(folder / "in.gguf", config, np.random.default_rng(RNG), kinds, **keys)
    return open_source(folder / "in.gguf")


def to_gguf(source: Source, folder: Path, **order: Any) -> Exported:
    return export(source, "in.gguf", Order(folder / "out.gguf", "gguf", **order))


def to_folder(source: Source, folder: Path, **order: Any) -> Exported:
    order = {"transformers": transformers_logits} | order
    return export(source, "in.gguf", Order(folder / "out", "transformers", **order))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program is installed: what is tested needs none."""
    monkeypatch.setattr(export_module, "has_llama_cpp", lambda: False)


@pytest.mark.peer
@pytest.mark.parametrize("type", [None, "q8_0"])
def test_llama_cpp_computes_what_the_source_says(tmp_path: Path, type: str | None) -> None:
    result = to_gguf(tiny(tmp_path), tmp_path, type=type)
    assert result.logits is not None and result.logits.program == "llama.cpp"
    assert result.logits.mean_kl <= result.logits.limit


def test_transformers_computes_what_the_source_says(tmp_path: Path) -> None:
    result = to_folder(tiny(tmp_path), tmp_path, type="f32")
    assert result.logits is not None and result.logits.program == "transformers"
    assert result.logits.mean_kl < 1e-4  # the source is float32, and so is what computes it
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["sliding_window"], config["eos_token_id"]) == (16, [1, 106])
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_there_and_back_gives_the_same_tensors(tmp_path: Path) -> None:
    source = tiny(tmp_path, "BF16")
    to_folder(source, tmp_path, type="f32", check=False)
    folder = open_source(tmp_path / "out")
    export(folder, "out", Order(tmp_path / "back.gguf", "gguf", type="bf16", check=False))
    back = open_source(tmp_path / "back.gguf")
    for name, tensor in source.tensors.items():
        assert np.array_equal(dequantize(back.tensors[name]), dequantize(tensor)), name


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    written = folder_writer.write_folder(tmp_path / "out", source, "F16", shard_bytes=100_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    again = open_source(tmp_path / "out")
    for name, tensor in source.tensors.items():
        wanted = dequantize(tensor) - np.float32(1 if len(tensor.shape) == 1 else 0)
        assert np.array_equal(dequantize(again.tensors[name]), wanted.astype(np.float16).astype(np.float32))
    assert set(written.kinds.values()) == {"F16"}


# --- Seeded faults: each must fail the check, and leave nothing under the final name


def swapped(outputs: Mapping[str, OutputTensor], a: str, b: str) -> dict[str, OutputTensor]:
    return {**outputs, a: outputs[b], b: outputs[a]}


def plus_one(outputs: Mapping[str, OutputTensor], names: str) -> dict[str, OutputTensor]:
    """All norms whose name ends so are off by one, as where the 1 is added twice or forgotten."""

    def off(tensor: OutputTensor) -> OutputTensor:
        data = np.concatenate(list(tensor.slices())).reshape(-1).view("<f4")
        return encoded("F32", tensor.shape, lambda start, stop: data[None] + np.float32(1))

    return {
        name: off(tensor)
        if len(tensor.shape) == 1 and name.removesuffix(".weight").endswith(names)
        else tensor
        for name, tensor in outputs.items()
    }


def break_gguf(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tensors, metadata = gguf_writer.gguf_tensors, gguf_writer.metadata_of

    def broken_tensors(source: Source) -> dict[str, OutputTensor]:
        outputs = tensors(source)
        if fault == "swapped tensors":
            return swapped(outputs, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
        if fault == "every norm off by one":
            return plus_one(outputs, "norm")
        return plus_one(outputs, "blk.3.ffn_norm") if fault == "norm off by one" else outputs

    def broken_metadata(source: Source, kinds: Any, changed: bool) -> tuple[Any, list[str]]:
        keys, lines = metadata(source, kinds, changed)
        if fault == "wrong stop id":
            keys["tokenizer.ggml.eot_token_id"] = Value(U32, 107)
        if fault == "wrong window":
            keys["gemma3.attention.sliding_window"] = Value(U32, 32)
        return keys, lines

    monkeypatch.setattr(gguf_writer, "gguf_tensors", broken_tensors)
    monkeypatch.setattr(gguf_writer, "metadata_of", broken_metadata)


def break_folder(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tensors, config = folder_writer.folder_tensors, folder_writer.hf_config
    stop_ids = folder_writer._stop_ids

    def broken_tensors(source: Source, kind: str, changed: Any) -> dict[str, OutputTensor]:
        outputs = tensors(source, kind, changed)
        if fault == "swapped tensors":
            gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
            return swapped(outputs, gate, up)
        if fault == "every norm off by one":
            return plus_one(outputs, "norm")
        name = "model.layers.3.pre_feedforward_layernorm"
        return plus_one(outputs, name) if fault == "norm off by one" else outputs

    def broken_config(source: Source, kind: str) -> dict[str, Any]:
        return config(source, kind) | ({"sliding_window": 32} if fault == "wrong window" else {})

    monkeypatch.setattr(folder_writer, "folder_tensors", broken_tensors)
    monkeypatch.setattr(folder_writer, "hf_config", broken_config)
    if fault == "wrong stop id":
        monkeypatch.setattr(folder_writer, "_stop_ids", lambda source: [*stop_ids(source)[:1], 107])


FAULTS = {
    "swapped tensors": "ffn_gate|other logits",
    "norm off by one": "ffn_norm|other logits",
    "every norm off by one": "norm|other logits",
    "wrong stop id": "107|107 as the ends",
    "wrong window": "sliding_window|other logits",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("write", "break_it"), [(to_gguf, break_gguf), (to_folder, break_folder)], ids=["gguf", "folder"]
)
def test_a_fault_is_found_when_the_result_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, write: Any, break_it: Callable[..., None]
) -> None:
    source = tiny(tmp_path)
    break_it(monkeypatch, fault)
    with pytest.raises(ExportFaultError, match=FAULTS[fault].split("|")[0]):
        write(source, tmp_path, type="f32")
    assert {path.name for path in tmp_path.iterdir()} == {"in.gguf"}


@pytest.mark.parametrize("fault", ["swapped tensors", "every norm off by one", "wrong stop id"])
@pytest.mark.parametrize(
    ("write", "break_it"),
    [
        pytest.param(to_gguf, break_gguf, marks=pytest.mark.peer, id="gguf"),
        pytest.param(to_folder, break_folder, id="folder"),
    ],
)
def test_a_fault_is_found_by_the_program_that_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, write: Any, break_it: Callable[..., None]
) -> None:
    """Also where reading it again would find nothing: the two checks do not lean on each other."""
    source = tiny(tmp_path)
    break_it(monkeypatch, fault)
    monkeypatch.setattr(export_module, "verify", lambda path, source, changed: [])
    monkeypatch.setattr(export_module, "limit_of", lambda kinds: 0.05)
    with pytest.raises(ExportFaultError, match=FAULTS[fault].split("|")[1]):
        write(source, tmp_path, type="f32")
    assert {path.name for path in tmp_path.iterdir()} == {"in.gguf"}


# --- Adapters


def merged_by_hand(source: Source, config: ModelConfig, adapter: Path) -> dict[str, np.ndarray]:
    from gemlet.model.adapters import read_adapter
    from gemlet.ops.packed import unpack

    values = {name: dequantize(tensor) for name, tensor in source.tensors.items()}
    for name, part in read_adapter(adapter, config).parts.items():
        values[name] = values[name] + part.scale * (
            unpack(part.b).astype(float) @ unpack(part.a).astype(float)
        )
    return values


def test_an_adapter_is_merged_in_float32(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3)
    order = Order(tmp_path / "out.gguf", "gguf")
    result = export(source, "in.gguf", order, adapter=adapter)
    again = open_source(tmp_path / "out.gguf")
    for name, values in merged_by_hand(source, source.config, adapter).items():
        # A sum of rank + 1 products, rounded once each, and the result.
        room = 6 * 2.0**-24 * (1 + np.abs(values)) * 4
        assert (np.abs(dequantize(again.tensors[name]) - values) <= room).all(), name
    assert result.logits is None or result.logits.mean_kl <= 0.05
    manifest = read_manifest(tmp_path / "out.gguf")
    assert manifest is not None and [part.role for part in manifest.inputs] == ["source", "adapter"]


def test_what_cannot_be_encoded_becomes_q8_0_when_it_is_merged(tmp_path: Path, alone: None) -> None:
    source = tiny(tmp_path, {"*": "Q5_0", "attn_v": "Q4_0", "token_embd": "Q8_0"})
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3, kinds=("attn_q", "attn_v"))
    order = Order(tmp_path / "out.gguf", "gguf")
    result = export(source, "in.gguf", order, adapter=adapter)
    kinds = {name: tensor.kind for name, tensor in open_source(tmp_path / "out.gguf").tensors.items()}
    assert (kinds["blk.0.attn_q"], kinds["blk.0.attn_v"]) == ("Q8_0", "Q4_0")
    assert (kinds["blk.0.attn_k"], kinds["token_embd"]) == ("Q5_0", "Q8_0")
    assert {error.name.split(".")[-1] for error in result.errors} == {"attn_q", "attn_v"}
    errors = {error.kind: error.error for error in result.errors}
    assert 0.001 < errors["Q8_0"] < 0.01 < errors["Q4_0"] < 0.2


def test_an_adapter_apart_is_what_llama_cpp_adds(tmp_path: Path, alone: None) -> None:
    source = tiny(tmp_path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3, rank_pattern={"q_proj": 4})
    result = export(source, "in.gguf", Order(tmp_path / "out.gguf", "gguf", apart=True), adapter=adapter)
    assert result.copied == len(source.tensors)
    file = read_gguf(tmp_path / "out-adapter.gguf")
    assert (file.metadata["general.type"], file.metadata["adapter.type"]) == ("adapter", "lora")
    assert file.metadata["adapter.lora.alpha"] == 0  # then llama.cpp multiplies by one
    merged = merged_by_hand(source, source.config, adapter)
    for name, values in merged.items():
        if f"{name}.weight.lora_a" in file.tensors:
            a, b = (dequantize(file.tensors[f"{name}.weight.lora_{side}"]) for side in "ab")
            base = dequantize(source.tensors[name])
            assert np.allclose(base + b @ a, values, atol=1e-6)
    folder = export(
        source, "in", Order(tmp_path / "out", "transformers", apart=True, check=False), adapter=adapter
    )
    assert (tmp_path / "out-adapter" / "adapter_model.safetensors").exists()
    assert folder.files[-1] == str(tmp_path / "out-adapter")


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path, alone: None) -> None:
    source = tiny(tmp_path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3)
    manifest = {"gemlet_adapter": 1, "base_weights_sha256": "0" * 64}
    (adapter / "gemlet_adapter.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match="base_weights_sha256"):
        export(source, "in.gguf", Order(tmp_path / "out.gguf", "gguf"), adapter=adapter)


# --- What goes with it, and what is refused


def test_terms_and_manifest_go_along(tmp_path: Path, alone: None) -> None:
    source = tiny(tmp_path)
    (tmp_path / "LICENSE").write_text("of a program\n")
    result = export(source, str(tmp_path / "in.gguf"), Order(tmp_path / "out.gguf", "gguf", "q8_0"))
    assert (tmp_path / "Notice").read_text() == GEMMA_NOTICE + "\n"
    assert (tmp_path / "LICENSE").read_text() == "of a program\n"
    assert "Gemma Terms of Use" in (tmp_path / "out.gguf.LICENSE").read_text()
    modifications = (tmp_path / "MODIFICATIONS").read_text()
    assert "copy of in.gguf" in modifications and str(tmp_path) not in modifications
    assert all(Path(path).exists() for path in result.files)
    manifest = read_manifest(tmp_path / "out.gguf")
    assert manifest is not None and manifest.quantisation == "q8_0"
    assert changed_files(tmp_path / "out.gguf", manifest) == ()


def test_a_folder_s_own_texts_are_copied(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "in", tiny_config(layers=1), np.random.default_rng(0))
    (tmp_path / "in" / "LICENSE").write_text("the whole agreement\n")
    order = Order(tmp_path / "out", "transformers", check=False)
    export(open_source(tmp_path / "in"), str(tmp_path / "in"), order)
    assert (tmp_path / "out" / "LICENSE").read_text() == "the whole agreement\n"
    assert (tmp_path / "out" / "Notice").read_text() == GEMMA_NOTICE + "\n"
    same = [(tmp_path / name / "tokenizer.model").read_bytes() for name in ("in", "out")]
    assert same[0] == same[1]
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None and changed_files(tmp_path / "out", manifest) == ()


def test_what_is_asked_in_vain_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    with pytest.raises(InvalidRequestError, match="does not hold q8_0"):
        to_folder(source, tmp_path, type="q8_0")
    with pytest.raises(InvalidRequestError, match="iq4"):
        to_gguf(source, tmp_path, type="iq4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="other things"):
        to_folder(source, tmp_path, type="f32", force=True)
    assert (tmp_path / "out" / "photo.jpg").read_bytes() == b"mine"


def test_a_folder_is_replaced_only_when_forced(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    to_folder(source, tmp_path, type="f32", check=False)
    with pytest.raises(OutputError, match="exists"):
        to_folder(source, tmp_path, type="bf16", check=False)
    to_folder(source, tmp_path, type="bf16", check=False, force=True)
    assert {tensor.kind for tensor in open_source(tmp_path / "out").tensors.values()} == {"BF16"}
    assert {path.name for path in tmp_path.iterdir()} == {"in.gguf", "out"}


def test_losses_that_a_person_should_know_are_said(tmp_path: Path) -> None:
    source = tiny(tmp_path, "Q5_0")
    assert "overflow" in " ".join(to_folder(source, tmp_path, type="f16", check=False).warnings)
    rounded = to_folder(source, tmp_path, type="bf16", check=False, force=True)
    assert "f32 keeps" in " ".join(rounded.warnings)
    assert "gemlet quantize" in " ".join(to_gguf(source, tmp_path, type="q4_0", check=False).warnings)


def test_the_window_of_a_known_wrong_file_is_put_right(tmp_path: Path) -> None:
    """The 1B shape with one layer's worth of lies: only the metadata is looked at."""
    source = tiny(tmp_path)
    facts = replace(source.facts, config=replace(source.config, sliding_window=512))
    metadata, _ = gguf_metadata.metadata_of(
        replace(source, facts=facts), dict.fromkeys(source.tensors, "F32"), False
    )
    assert metadata["gemma3.attention.sliding_window"].value == 512


def test_the_package_reads_what_is_written(tmp_path: Path) -> None:
    to_gguf(tiny(tmp_path), tmp_path, type="q4_0", check=False)
    kinds = {
        tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors
    }
    assert kinds["blk.0.attn_q.weight"] == "Q4_0"
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
