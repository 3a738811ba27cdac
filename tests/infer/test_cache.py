"""State files: the same state comes back, and anything else is a StateError."""

from __future__ import annotations

import json
import os
import random

import pytest

from gemlet.errors import StateError
from gemlet.infer.cache import load_state, save_state, state_facts, state_path
from gemlet.types import Manifest
from tests.infer.fakes import FakeDecoder, FakeState

FACTS = {"weights_sha256": "ab", "instruction_set": "fake"}
IDS = (2, 7, 9)


@pytest.fixture
def saved(tmp_path):
    path = state_path(tmp_path / "folder", IDS, FACTS)
    save_state(path, FakeState(IDS, longest=5), IDS, FACTS)
    return path


def test_the_same_state_comes_back(saved):
    ids, state = load_state(saved, FakeDecoder(), FACTS)
    assert ids == IDS
    assert (state.ids, state.longest) == (IDS, 5)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]  # nothing half-written is left


def test_missing_file(tmp_path):
    with pytest.raises(StateError, match="cannot be read"):
        load_state(tmp_path / "none", FakeDecoder(), FACTS)


def test_other_facts_are_refused(saved):
    with pytest.raises(StateError, match="other weights"):
        load_state(saved, FakeDecoder(), FACTS | {"instruction_set": "other"})


def test_every_changed_or_missing_byte_is_found(saved):
    content = saved.read_bytes()
    rng = random.Random(0)
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= rng.randint(1, 255)
        saved.write_bytes(damaged)
        with pytest.raises(StateError):
            load_state(saved, FakeDecoder(), FACTS)
        saved.write_bytes(content[:i])
        with pytest.raises(StateError):
            load_state(saved, FakeDecoder(), FACTS)
    saved.write_bytes(content + b"x")
    with pytest.raises(StateError):
        load_state(saved, FakeDecoder(), FACTS)


@pytest.mark.parametrize(
    "change", [{"bytes": 10**15}, {"tokens": -1}, {"tokens": 10**9}, {"bytes": "9"}, {"format": "other"}]
)
def test_absurd_headers_cost_nothing(saved, change):
    line, body = saved.read_bytes().split(b"\n", 1)
    saved.write_bytes(json.dumps(json.loads(line) | change).encode() + b"\n" + body)
    with pytest.raises(StateError):
        load_state(saved, FakeDecoder(), FACTS)


def test_ids_must_be_those_the_state_has_read(tmp_path):
    with pytest.raises(StateError, match="2 ids"):
        save_state(tmp_path / "x", FakeState(IDS), IDS[:2], FACTS)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(saved, FakeState(IDS), IDS, FACTS)
    assert saved.read_bytes() == before
    assert len(list(saved.parent.iterdir())) == 1


def test_names_differ_by_ids_and_facts(tmp_path):
    paths = {
        state_path(tmp_path, IDS, FACTS),
        state_path(tmp_path, IDS[:2], FACTS),
        state_path(tmp_path, IDS, FACTS | {"weights_sha256": "cd"}),
    }
    assert len(paths) == 3


def test_facts_are_what_changes_bits():
    manifest = Manifest("m", "w", "t", None, None, "q", "a", "f16", 1.5, "avx2", "1")
    facts = state_facts(manifest)
    assert facts["instruction_set"] == "avx2" and facts["embedding_scale"] == "1.5"
    assert "tokenizer_sha256" not in facts  # ids are what a state has read, however they were made
