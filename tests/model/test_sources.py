"""GGUF files and Hugging Face folders become the same thing, or an error that names file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import ModelFileError, ModelNotFoundError
from gemlet.formats.dequantize import dequantize
from gemlet.model.config import ModelConfig
from gemlet.model.sources import Source, files_of, open_source
from gemlet.types import Sampling
from tests.formats.real_file import real_270m
from tests.synthetic import (
    CHAT_TEMPLATE,
    gguf_metadata,
    layer_types,
    safetensors_bytes,
    tiny_config,
    write_tiny_gguf,
    write_tiny_hf,
)
from tests.synthetic_tokenizer import tiny_tokenizer, tiny_vocabulary

CONFIG = tiny_config(layers=2)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def open_gguf(folder: Path, config: ModelConfig = CONFIG, **options: Any) -> Source:
    write_tiny_gguf(folder / "m.gguf", config, rng(), **options)
    return open_source(folder / "m.gguf")


def open_folder(folder: Path, config: ModelConfig = CONFIG, **options: Any) -> Source:
    write_tiny_hf(folder / "m", config, rng(), **options)
    return open_source(folder / "m")


CONFIGS = [
    CONFIG,
    tiny_config(tie_word_embeddings=False, vocab_size=97),
    tiny_config(layer_types=layer_types(9, 3), num_attention_heads=8, num_key_value_heads=4, head_dim=16),
    tiny_config(hidden_size=40, intermediate_size=56, sliding_window=4, context_length=77),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_gguf_file_states_its_configuration(tmp_path: Path, config: ModelConfig) -> None:
    metadata = {"gemma3.attention.sliding_window_pattern": [kind == "local" for kind in config.layer_types]}
    source = open_gguf(tmp_path, config, metadata=metadata)
    assert source.config == config
    assert source.facts.format == "gguf" and source.facts.corrections == ()


@pytest.mark.parametrize("config", [config for config in CONFIGS if config.vocab_size == 640])
@pytest.mark.parametrize("old_style", [True, False])
def test_a_folder_states_its_configuration(tmp_path: Path, config: ModelConfig, old_style: bool) -> None:
    source = open_folder(tmp_path, config, old_style=old_style)
    assert source.config == config
    assert source.facts.format == "huggingface" and source.facts.corrections == ()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folders_tensors_have_canonical_names(tmp_path: Path, shards: int) -> None:
    wanted = write_tiny_hf(tmp_path / "m", CONFIG, rng(), shards=shards)
    source = open_source(tmp_path / "m")
    assert source.tensors.keys() == wanted.keys()
    for name, tensor in source.tensors.items():
        offset = np.float32(source.norm_offset if len(tensor.shape) == 1 else 0)
        assert np.array_equal(dequantize(tensor) + offset, wanted[name])


def test_the_published_gemma_configuration(tmp_path: Path) -> None:
    """The embedding is scaled by the unrounded root, scores by 1/16, and layers 5, 11, 17, 23 are global."""
    wide = open_folder(tmp_path / "wide", tiny_config(layers=1, hidden_size=1152, head_dim=256)).config
    assert (wide.embedding_scale, wide.attention_scale) == (1152**0.5, 0.0625)
    deep = open_folder(tmp_path / "deep", tiny_config(layers=26, hidden_size=8)).config
    assert [i for i, kind in enumerate(deep.layer_types) if kind == "global"] == [5, 11, 17, 23]


def test_the_real_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    facts = open_source(real_270m(tmp_path_factory.getbasetemp())).facts
    assert sum(facts.config.parameter_counts().values()) == 268_098_176
    assert facts.corrections == () and facts.licence == "gemma" and facts.chat_template is None
    assert facts.config.stop_ids == (1,) and facts.config.sliding_window == 512
    assert facts.sampling == Sampling(temperature=1.0, top_k=64, top_p=0.95)


# --- Known defects


@pytest.mark.parametrize(("hidden", "layers"), [(1152, 26), (640, 18)])
def test_the_wrong_window_of_published_files_is_corrected(tmp_path: Path, hidden: int, layers: int) -> None:
    shape = {"vocab_size": 16, "intermediate_size": 8, "head_dim": 2, "hidden_size": hidden, "layers": layers}
    facts = open_gguf(tmp_path, tiny_config(sliding_window=1024, **shape)).facts
    assert facts.config.sliding_window == 512
    assert facts.corrections == ("sliding_window is 1024 in the file and was corrected to 512",)
    assert open_gguf(tmp_path, tiny_config(sliding_window=256, **shape)).config.sliding_window == 256


def test_another_shape_keeps_its_window(tmp_path: Path) -> None:
    assert open_gguf(tmp_path, tiny_config(layers=2, sliding_window=1024)).config.sliding_window == 1024


def test_a_missing_space_prefix_flag_is_corrected(tmp_path: Path) -> None:
    facts = open_gguf(tmp_path, metadata={"tokenizer.ggml.add_space_prefix": None}).facts
    assert facts.tokenizer.add_space_prefix is False
    assert facts.corrections == ("add_space_prefix is missing and was set to false",)


def test_a_missing_second_stop_id_is_corrected(tmp_path: Path) -> None:
    facts = open_gguf(tmp_path, chat_template=CHAT_TEMPLATE).facts
    assert facts.config.stop_ids == (1, 106) and facts.chat_template == CHAT_TEMPLATE
    assert facts.corrections == ("stop id 106 is missing in the file and was added",)
    whole = {"tokenizer.ggml.eot_token_id": 106}
    assert open_gguf(tmp_path, chat_template=CHAT_TEMPLATE, metadata=whole).facts.corrections == ()


def test_mistyped_pieces_of_the_familys_vocabulary_are_corrected(tmp_path: Path) -> None:
    config = tiny_config(layers=1, vocab_size=262144, hidden_size=2, intermediate_size=2, head_dim=2)
    pieces = [f"w{i}" for i in range(config.vocab_size)]
    pieces[4], pieces[238], pieces[255999], pieces[262143] = (
        "<mask>",
        "<0x00>",
        "<start_of_image>",
        "<unused6241>",
    )
    types = np.ones(config.vocab_size, np.int32).tolist()
    facts = open_gguf(
        tmp_path,
        config,
        metadata={"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": types},
    ).facts
    assert facts.tokenizer.vocabulary is not None
    assert facts.tokenizer.vocabulary.types[[106, 107, 238, 494, 256000, 262143]].tolist() == [
        3,
        4,
        6,
        1,
        4,
        3,
    ]
    wrong = 107 + 131 + 256 + 33 + 6143
    assert facts.corrections == (f"{wrong} pieces had a wrong type and were corrected",)
    pieces[4] = "another vocabulary"
    assert not open_gguf(tmp_path, config, metadata={"tokenizer.ggml.tokens": pieces}).facts.corrections


def test_a_folders_stop_ids_are_those_of_all_its_files(tmp_path: Path) -> None:
    source = open_folder(tmp_path, chat_template=CHAT_TEMPLATE)
    assert source.config.stop_ids == (1, 106) and source.facts.corrections == ()
    assert source.facts.chat_template == CHAT_TEMPLATE
    (tmp_path / "m" / "generation_config.json").unlink()
    source = open_source(tmp_path / "m")
    assert source.config.stop_ids == (1, 106) and len(source.facts.corrections) == 1
    assert open_folder(tmp_path / "list", changes={"eos_token_id": [1, 50]}).config.stop_ids == (1, 50)


# --- Tokenizer, sampling, licence


def test_the_tokenizer_of_a_gguf_file(tmp_path: Path) -> None:
    tokenizer = open_gguf(tmp_path).facts.tokenizer
    pieces, scores, types = tiny_vocabulary(640)
    assert tokenizer.kind == "gguf" and tokenizer.vocabulary is not None
    assert [piece.decode() for piece in tokenizer.vocabulary.pieces()] == list(pieces)
    assert tokenizer.vocabulary.scores.tolist() == [np.float32(score) for score in scores]
    assert tokenizer.vocabulary.types.tolist() == list(types)
    assert (tokenizer.bos_id, tokenizer.unknown_id, tokenizer.pad_id) == (2, 3, 0)


def test_a_tokenizers_identity_is_its_content(tmp_path: Path) -> None:
    first = open_gguf(tmp_path).facts.tokenizer.sha256
    (tmp_path / "elsewhere").mkdir()
    assert open_gguf(tmp_path / "elsewhere", tiny_config(layers=1)).facts.tokenizer.sha256 == first
    scores = gguf_metadata(CONFIG)["tokenizer.ggml.scores"]
    changed = {"tokenizer.ggml.scores": [*scores[:-1], scores[-1] - 1]}
    assert open_gguf(tmp_path, metadata=changed).facts.tokenizer.sha256 != first
    assert (
        open_gguf(tmp_path, metadata={"tokenizer.ggml.add_space_prefix": True}).facts.tokenizer.sha256
        != first
    )


def test_the_tokenizer_of_a_folder(tmp_path: Path) -> None:
    tokenizer = open_folder(tmp_path).facts.tokenizer
    assert tokenizer.kind == "sentencepiece" and tokenizer.vocabulary is None
    assert Path(tokenizer.path).read_bytes() == tiny_tokenizer(640)
    (tmp_path / "m" / "tokenizer.model").unlink()
    with pytest.raises(ModelFileError, match=r"tokenizer\.model or tokenizer\.json"):
        open_source(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    assert open_source(tmp_path / "m").facts.tokenizer.kind == "tokenizer-json"


def test_sampling_defaults(tmp_path: Path) -> None:
    family = Sampling(temperature=1.0, top_k=64, top_p=0.95)
    assert open_gguf(tmp_path).facts.sampling == family
    own = {"general.sampling.temp": 0.5, "general.sampling.top_k": 20}
    assert open_gguf(tmp_path, metadata=own).facts.sampling == Sampling(temperature=0.5, top_k=20, top_p=0.95)
    assert open_folder(tmp_path).facts.sampling == family
    generation = tmp_path / "m" / "generation_config.json"
    generation.write_text(json.dumps({"temperature": 0.7, "top_k": 5, "min_p": 0.0, "do_sample": True}))
    assert open_source(tmp_path / "m").facts.sampling == Sampling(temperature=0.7, top_k=5, top_p=0.95)
    generation.write_text(json.dumps({"do_sample": False}))
    assert open_source(tmp_path / "m").facts.sampling.temperature == 0
    generation.write_text(json.dumps({"no_repeat_ngram_size": 3}))
    with pytest.raises(ModelFileError, match="no_repeat_ngram_size: is unknown"):
        open_source(tmp_path / "m")


def test_the_chat_template_of_a_folder(tmp_path: Path) -> None:
    open_folder(tmp_path)
    folder = tmp_path / "m"
    named = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert open_source(folder).facts.chat_template == "a"
    (folder / "chat_template.jinja").write_text("c")
    assert open_source(folder).facts.chat_template == "c"


def test_the_licence_is_the_files_own_statement(tmp_path: Path) -> None:
    assert open_gguf(tmp_path).facts.licence == "gemma"
    assert open_gguf(tmp_path, metadata={"general.license": None}).facts.licence is None
    assert open_folder(tmp_path).facts.licence is None
    (tmp_path / "m" / "README.md").write_text("---\nlicense: gemma\ntags: [a]\n---\n# Gemma\n")
    assert open_source(tmp_path / "m").facts.licence == "gemma"


def test_the_files_of_a_model(tmp_path: Path) -> None:
    open_folder(tmp_path, shards=2)
    names = [file.name for file in files_of(tmp_path / "m")]
    assert names[:3] == ["config.json", "generation_config.json", "tokenizer.model"]
    assert names[-2:] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_a_copy_of_a_tied_head_is_not_used(tmp_path: Path) -> None:
    """Some tools store it; transformers ignores it as well."""
    open_folder(tmp_path)
    write_tiny_hf(tmp_path / "u", tiny_config(layers=2, tie_word_embeddings=False), rng())
    config = json.loads((tmp_path / "u" / "config.json").read_text())
    (tmp_path / "u" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    source = open_source(tmp_path / "u")
    assert source.config == CONFIG and "output" not in source.tensors


def test_nothing_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        open_source(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        open_source(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    open_folder(tmp_path, shards=2)
    index = tmp_path / "m" / "model.safetensors.index.json"
    (tmp_path / "secret.safetensors").write_bytes(safetensors_bytes({}))
    for name in (
        "../secret.safetensors",
        "/etc/passwd",
        ".hidden.safetensors",
        "a\0.safetensors",
        "",
        "x.bin",
    ):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelFileError, match="weight_map"):
            open_source(tmp_path / "m")
