"""The family table is consistent with itself and with the published vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.formats.gguf import read_gguf
from gemlet.model.config import ModelConfig
from gemlet.model.families import FAMILIES, GEMMA3
from tests.formats.real_file import real_270m
from tests.synthetic import hf_name, tiny_config


def test_families_are_found_by_their_own_name() -> None:
    assert all(family.name == name for name, family in FAMILIES.items())


def test_tensor_rules_speak_of_config_fields_and_have_distinct_names() -> None:
    config: ModelConfig = tiny_config()
    for family in FAMILIES.values():
        rules = family.tensor_rules(layers=3, tied=False)
        assert len({hf for hf, _ in rules.values()}) == len(rules)
        for _, rule in rules.values():
            assert all(isinstance(getattr(config, field), int) for field in rule.shape)
            assert rule.name.endswith(("norm", ".bias")) == (len(rule.shape) == 1)


def test_hugging_face_names() -> None:
    """Against the names that the tests' own writer uses, which transformers loads (parity tests)."""
    for name, (hf, _) in GEMMA3.tensor_rules(layers=2, tied=False).items():
        assert f"{hf}.weight" == hf_name(name)


def test_a_tied_model_has_no_head_of_its_own() -> None:
    untied, tied = (GEMMA3.tensor_rules(1, tied) for tied in (False, True))
    assert untied.keys() - tied.keys() == {"output"}


def test_piece_types_are_those_of_the_real_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    metadata = read_gguf(real_270m(Path(tmp_path_factory.getbasetemp()))).metadata
    assert (GEMMA3.expected_types() == metadata["tokenizer.ggml.token_type"]).all()
    tokens = metadata["tokenizer.ggml.tokens"]
    assert {id: tokens[id] for id in GEMMA3.vocabulary_marks} == dict(GEMMA3.vocabulary_marks)
