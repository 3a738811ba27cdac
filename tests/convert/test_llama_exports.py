"""Models of the Llama kind from one format to the other: the same weights, ids and logits in the programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gemlet.convert import adapter_files, folder_writer, gguf_metadata, gguf_writer
from gemlet.convert import export as export_module
from gemlet.convert.byte_tokenizer import byte_tokenizer_json
from gemlet.convert.export import Exported, Order, export
from gemlet.convert.gguf_values import U32, Value
from gemlet.convert.llama_folder import rope_parameters
from gemlet.convert.tensors import OutputTensor
from gemlet.convert.verify import ExportFaultError
from gemlet.errors import InvalidRequestError
from gemlet.evaluate.transformers_logits import transformers_logits
from gemlet.formats.dequantize import dequantize
from gemlet.formats.gguf import Strings, read_gguf
from gemlet.model.config import ModelConfig
from gemlet.model.sources import Source, open_source
from gemlet.text.byte_level import Pieces
from gemlet.text.pieces import CONTROL, NORMAL, UNUSED
from gemlet.text.tokenizer import Tokenizer
from tests.adapters import random_adapter
from tests.convert.test_export import merged_by_hand, plus_one, swapped
from tests.llama_models import KINDS, LLAMA3_ROPE, WORDS, save_folder, save_gguf, tiny_model

TEXTS = ("It was 1984,  the best\tof times…\n\n  def f(x):\n", "水の音 e\u0301 <tool_call>{} 😩", "it's I'll")


def gguf_source(folder: Path, kind: str = "llama", **changes: Any) -> tuple[PreTrainedModel, Source]:
    model = tiny_model(kind, **changes)
    save_gguf(folder / "in.gguf", model, WORDS[kind])
    return model, open_source(folder / "in.gguf")


def to_gguf(source: Source, folder: Path, **order: Any) -> Exported:
    return export(source, "in", Order(folder / "out.gguf", "gguf", **order))


def to_folder(source: Source, folder: Path, **order: Any) -> Exported:
    order = {"transformers": transformers_logits} | order
    return export(source, "in", Order(folder / "out", "transformers", **order))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program is installed: what is tested needs none."""
    monkeypatch.setattr(export_module, "has_llama_cpp", lambda: False)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_the_folder_as_the_model_that_it_was(tmp_path: Path, kind: str) -> None:
    model, source = gguf_source(tmp_path, kind)
    result = to_folder(source, tmp_path, type="f32")
    assert result.logits is not None and result.logits.mean_kl < 1e-4  # float32 on both sides
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), local_files_only=True)
    for name, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
    for name in ("rope_theta", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(again.config, name, None) == getattr(model.config, name, None), name
    if kind == "llama3":
        assert again.config.rope_parameters == LLAMA3_ROPE
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "out"), local_files_only=True)
    ours = Tokenizer.from_source(source.facts.tokenizer)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text, bos=True), text
        assert theirs.decode(theirs(text)["input_ids"]) == ours.decode(ours.encode(text))
    assert theirs.chat_template == source.facts.chat_template


def test_where_text_begins_with_a_bos_the_folder_says_so(tmp_path: Path) -> None:
    save_folder(tmp_path / "in", tiny_model("llama3"), WORDS["llama3"])
    document = json.loads((tmp_path / "in" / "tokenizer.json").read_text())
    bos = "<|endoftext|>"
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [0], "tokens": [bos]}},
    }
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(document))
    to_gguf(open_source(tmp_path / "in"), tmp_path)
    to_folder(open_source(tmp_path / "out.gguf"), tmp_path, type="f32")
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "out"), local_files_only=True)
    ours = Tokenizer.from_source(open_source(tmp_path / "in").facts.tokenizer)
    assert theirs("soup")["input_ids"] == ours.encode("soup", bos=True)
    assert ours.encode("soup", bos=True)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_what_llama_cpp_s_converter_makes_of_it(
    tmp_path: Path, kind: str, alone: None
) -> None:
    model, _ = gguf_source(tmp_path, kind)
    save_folder(tmp_path / "in", model, WORDS[kind])
    to_gguf(open_source(tmp_path / "in"), tmp_path)
    wanted, found = read_gguf(tmp_path / "in.gguf"), read_gguf(tmp_path / "out.gguf")
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        if name == "rope_freqs.weight":
            assert np.allclose(dequantize(found.tensors[name]), dequantize(tensor), rtol=1e-6)
        else:
            assert np.array_equal(dequantize(found.tensors[name]), dequantize(tensor)), name
    for key, value in wanted.metadata.items():
        if isinstance(value, Strings):
            assert list(found.metadata[key]) == list(value), key
        elif key not in ("general.name", "general.file_type"):
            assert np.array_equal(found.metadata[key], value), key


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_what_the_folder_says(tmp_path: Path, kind: str) -> None:
    save_folder(tmp_path / "in", tiny_model(kind), WORDS[kind])
    result = to_gguf(open_source(tmp_path / "in"), tmp_path)
    assert result.logits is not None and result.logits.mean_kl < 1e-3


def test_sixteen_bits_there_and_back_lose_nothing(tmp_path: Path, alone: None) -> None:
    save_folder(tmp_path / "in", tiny_model("llama").to(torch.bfloat16), WORDS["llama"])
    source = open_source(tmp_path / "in")
    to_gguf(source, tmp_path)
    kinds = {name: t.kind for name, t in read_gguf(tmp_path / "out.gguf").tensors.items()}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.0.attn_norm.weight"]) == ("BF16", "F32")
    result = to_folder(open_source(tmp_path / "out.gguf"), tmp_path)
    assert result.kinds == {"BF16": len(source.tensors)}
    again = open_source(tmp_path / "out")
    for name, tensor in source.tensors.items():
        assert again.tensors[name].data.tobytes() == tensor.data.tobytes(), name


def test_rows_without_a_piece_and_the_licence_survive(tmp_path: Path, alone: None) -> None:
    model = tiny_model("qwen2", vocab_size=416)
    save_folder(tmp_path / "in", model, WORDS["qwen2"])
    (tmp_path / "in" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    document = json.loads((tmp_path / "in" / "tokenizer.json").read_text())
    pieces = document["model"]["vocab"]
    spare = [name for name, id in pieces.items() if id >= 408]  # the embedding has more rows than these
    document["added_tokens"] = document["added_tokens"][:-1]
    document["model"]["vocab"] = {name: id for name, id in pieces.items() if id < 408}
    document["model"]["merges"] = [
        merge for merge in document["model"]["merges"] if "".join(merge) not in spare
    ]
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(document))
    to_gguf(open_source(tmp_path / "in"), tmp_path)
    file = read_gguf(tmp_path / "out.gguf")
    assert list(file.metadata["tokenizer.ggml.tokens"])[-1] == b"[PAD415]"
    assert file.metadata["general.license"] == "apache-2.0"
    to_folder(open_source(tmp_path / "out.gguf"), tmp_path, type="f32")
    assert open_source(tmp_path / "out").facts.licence == "apache-2.0"
    assert len(json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]) == 408


def test_ends_that_are_known_by_name_may_stay_unsaid(tmp_path: Path, alone: None) -> None:
    """A GGUF file has a place for two: those that nothing else tells a reader go first."""
    save_folder(tmp_path / "in", tiny_model("qwen2"), WORDS["qwen2"])
    (tmp_path / "in" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2, 7, 9]}))
    result = to_gguf(open_source(tmp_path / "in"), tmp_path)
    metadata = read_gguf(tmp_path / "out.gguf").metadata
    assert [metadata[f"tokenizer.ggml.{key}_token_id"] for key in ("eos", "eot")] == [7, 9]
    assert not result.corrections


def test_what_a_folder_cannot_say_is_refused(tmp_path: Path) -> None:
    config = gguf_source(tmp_path)[1].config
    stretched = {"rope_divisors": (4.0,) * (config.head_dim // 2)}
    assert rope_parameters(ModelConfig(**vars(config) | stretched))["rope_type"] == "linear"
    odd = {"rope_divisors": tuple(np.linspace(1, 3, config.head_dim // 2))}
    with pytest.raises(InvalidRequestError, match="rotation"):
        rope_parameters(ModelConfig(**vars(config) | odd))
    pieces = Pieces(["<s>", "gone", "a"], [CONTROL, UNUSED, NORMAL], [], "smollm", 0, False)
    with pytest.raises(InvalidRequestError, match="piece 1 is not used"):
        byte_tokenizer_json(pieces)


# --- Adapters


@pytest.mark.parametrize("write", [to_gguf, to_folder])
def test_an_adapter_is_merged_into_rows_of_either_order(tmp_path: Path, write: Any) -> None:
    """The check computes a text, and what was merged is compared by name."""
    _, source = gguf_source(tmp_path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3)
    order = Order(tmp_path / "out", "gguf" if write is to_gguf else "transformers", "f32")
    result = export(source, "in.gguf", order, adapter=adapter)
    again = open_source(tmp_path / "out")
    for name, values in merged_by_hand(source, source.config, adapter).items():
        room = 6 * 2.0**-24 * (1 + np.abs(values)) * 4  # a sum of rank + 1 products, and the result
        assert (np.abs(dequantize(again.tensors[name]) - values) <= room).all(), name
    assert result.checked


@pytest.mark.peer
def test_an_adapter_apart_changes_what_it_should_in_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source = gguf_source(tmp_path)
    adapter = random_adapter(tmp_path / "tuned", source.config, seed=3)
    order = Order(tmp_path / "out.gguf", "gguf", apart=True)
    result = export(source, "in.gguf", order, adapter=adapter)
    assert result.adapter_logits is not None
    assert result.adapter_logits.mean_kl < 1e-3 < result.adapter_logits.limit
    # Rows in the order of the folder's would be another adapter.
    monkeypatch.setattr(adapter_files, "row_order", lambda config, name: None)
    order = Order(tmp_path / "wrong.gguf", "gguf", apart=True)
    with pytest.raises(ExportFaultError, match="other logits"):
        export(source, "in.gguf", order, adapter=adapter)
    assert not (tmp_path / "wrong-adapter.gguf").exists()


# --- Seeded faults


def break_tensors(outputs: Mapping[str, OutputTensor], fault: str, names: dict[str, str]) -> Any:
    if fault == "swapped tensors":
        return swapped(outputs, names["gate"], names["up"])
    if fault == "norm off by one":
        return plus_one(outputs, names["norm"])
    return plus_one(outputs, "norm") if fault == "every norm off by one" else outputs


def break_gguf(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tensors, write_stop_ids = gguf_writer.gguf_tensors, gguf_metadata._write_stop_ids
    names = {"gate": "blk.0.ffn_gate.weight", "up": "blk.0.ffn_up.weight", "norm": "blk.1.ffn_norm"}

    def other_stop_id(family: Any, stop_ids: Any, metadata: Any, named: Any = ()) -> list[str]:
        lines = write_stop_ids(family, stop_ids, metadata, named)
        metadata["tokenizer.ggml.eos_token_id"] = Value(U32, 7)
        return lines

    monkeypatch.setattr(
        gguf_writer, "gguf_tensors", lambda source: break_tensors(tensors(source), fault, names)
    )
    if fault == "wrong stop id":
        monkeypatch.setattr(gguf_metadata, "_write_stop_ids", other_stop_id)
    if fault == "rows in another order":
        monkeypatch.setattr(gguf_writer, "row_order", lambda config, name: None)


def break_folder(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tensors = folder_writer.folder_tensors
    mlp, norm = "model.layers.0.mlp", "model.layers.1.post_attention_layernorm"
    names = {"gate": f"{mlp}.gate_proj.weight", "up": f"{mlp}.up_proj.weight", "norm": norm}

    def broken(source: Source, kind: str, changed: Any) -> Any:
        outputs = tensors(source, kind, changed)
        if fault == "rows in another order":
            stored = read_gguf(source.facts.path).tensors
            for part in ("q", "k"):
                as_in_the_file = stored[f"blk.0.attn_{part}.weight"]
                name = f"model.layers.0.self_attn.{part}_proj.weight"
                outputs[name] = gguf_writer.kept(as_in_the_file)
        return break_tensors(outputs, fault, names)

    monkeypatch.setattr(folder_writer, "folder_tensors", broken)
    if fault == "wrong stop id":
        monkeypatch.setattr(folder_writer, "_stop_ids", lambda source: 7)


FAULTS = {
    "swapped tensors": "ffn_gate|other logits",
    "norm off by one": "ffn_norm|other logits",
    "every norm off by one": "norm|other logits",
    "rows in another order": "attn_[qk]|other logits",
    "wrong stop id": "stop_ids|7 as the ends",
}


def exported_wrongly(format: str, fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF file from a folder, or a folder from a GGUF file, with a fault."""
    if format == "gguf":
        save_folder(folder / "in", tiny_model("llama"), WORDS["llama"])
        source = open_source(folder / "in")
        break_gguf(monkeypatch, fault)
        to_gguf(source, folder, type="f32")
    else:
        _, source = gguf_source(folder)
        break_folder(monkeypatch, fault)
        to_folder(source, folder, type="f32")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("format", ["gguf", "transformers"])
def test_a_fault_is_found_when_the_result_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, format: str
) -> None:
    with pytest.raises(ExportFaultError, match=FAULTS[fault].split("|")[0]):
        exported_wrongly(format, fault, tmp_path, monkeypatch)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("format", [pytest.param("gguf", marks=pytest.mark.peer), "transformers"])
def test_a_fault_is_found_by_the_program_that_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, format: str
) -> None:
    monkeypatch.setattr(export_module, "verify", lambda path, source, changed: [])
    monkeypatch.setattr(export_module, "limit_of", lambda kinds: 0.05)
    with pytest.raises(ExportFaultError, match=FAULTS[fault].split("|")[1]):
        exported_wrongly(format, fault, tmp_path, monkeypatch)
    assert len(list(tmp_path.iterdir())) == 1
