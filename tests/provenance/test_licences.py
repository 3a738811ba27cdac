"""The register of licences, the forbidden uses and the known files, against what the texts themselves say."""

from __future__ import annotations

import hashlib

import pytest

from gemlet.provenance.gemma_policy import PROHIBITED_USES, match_uses
from gemlet.provenance.licences import GEMMA, LICENCES, find_licence
from gemlet.provenance.releases import RELEASES, REPOSITORIES, by_file, by_sha256, lineage


def test_gemmas_notice_is_the_one_that_the_terms_prescribe() -> None:
    text = (GEMMA.notice or "").encode() + b"\n"
    assert len(text) == 97
    assert (
        hashlib.sha256(text).hexdigest() == "66f856d7da72797f528fca46b7c80634ab481f917bfe020960e123d84b19f75f"
    )


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("gemma", "gemma"),
        ("Gemma Terms of Use", "gemma"),
        ("Apache-2.0", "apache-2.0"),
        ("apache license 2.0", "apache-2.0"),
        ("MIT", "mit"),
        ("llama3.2", "llama3.2"),
        ("Llama 3.1 Community License", "llama3.1"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0"),
        ("bigscience-openrail-m", "openrail"),
        ("qwen-research", "qwen-research"),
    ],
)
def test_a_licence_is_found_under_its_names(text: str, id: str) -> None:
    found = find_licence(text)
    assert found is not None and found.id == id


@pytest.mark.parametrize("text", ["", "other", "llama4", "gemma-9-pro", "unknown"])
def test_an_unknown_licence_is_none(text: str) -> None:
    assert find_licence(text) is None


def test_thresholds_are_where_the_texts_have_them() -> None:
    with_size = {id for id, licence in LICENCES.items() if licence.has_size_threshold}
    assert with_size == {"llama3.1", "llama3.2", "llama3.3"}
    assert {id for id, licence in LICENCES.items() if licence.has_revenue_threshold} == {"lfm1.0"}
    assert "700 million" in (LICENCES["llama3.2"].size_threshold or "")


def test_each_licence_can_be_read_somewhere() -> None:
    for licence in LICENCES.values():
        assert licence.url.startswith("https://") and licence.summary
        assert len({duty.id for duty in licence.duties}) == len(licence.duties)


def test_a_product_is_matched_with_the_uses_that_its_words_hint_at() -> None:
    found = {match.use.id: match.words for match in match_uses("A chatbot that screens loan applicants")}
    assert set(found) == {"automated-decisions"}
    assert found["automated-decisions"] == ("loan", "applicants")
    assert {match.use.id for match in match_uses("legal advice for tenants")} >= {
        "professions",
        "false-expertise",
    }
    assert not match_uses("a recipe assistant that suggests dinners")
    assert not match_uses("paralegals are not matched in the middle of a word")
    assert len({use.id for use in PROHIBITED_USES}) == len(PROHIBITED_USES)


def test_known_files_are_found_by_hash_and_by_name() -> None:
    release = by_file("google/gemma-3-1b-it", "tokenizer.model")
    assert release is not None and release.original
    assert by_sha256(release.sha256.upper()) == (release,)
    assert by_file("google/gemma-3-1b-it", "other") is None and by_sha256("0" * 64) == ()
    assert len({release.sha256 for release in RELEASES}) == len(RELEASES)


def test_a_lineage_ends_in_a_pretrained_model() -> None:
    names = [repository.name for repository in lineage("stduhpf/google-gemma-3-1b-it-qat-q4_0-gguf-small")]
    assert names == [
        "stduhpf/google-gemma-3-1b-it-qat-q4_0-gguf-small",
        "google/gemma-3-1b-it-qat-q4_0-gguf",
        "google/gemma-3-1b-it-qat-q4_0-unquantized",
        "google/gemma-3-1b-it",
        "google/gemma-3-1b-pt",
    ]
    assert lineage("nobody/nothing") == ()
    for name, repository in REPOSITORIES.items():
        assert lineage(name)[-1].base is None and repository.licence in LICENCES
