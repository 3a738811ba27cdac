"""`gemlet check` as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemlet.cli.check import EXIT_FOUND
from gemlet.cli.main import main
from gemlet.provenance.manifest import derive, manifest_path, write_manifest
from gemlet.store.embedded import embedded_model
from gemlet.store.settings import cache_dir
from tests.provenance.corpus import Corpus
from tests.provenance.hub_stand_in import REPOSITORY, hub


@pytest.fixture(scope="module")
def real(own_home: None) -> Corpus:
    return Corpus(embedded_model(cache_dir()))


def test_the_real_model(real: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(real.path), "--quick", "--use", "A tool that screens loan applicants"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{real.path}: 0 errors, 0 warnings\n")
    for text in ("LICENCE", "Gemma Terms of Use", "note: mostly-not-q4-k", "3.d", "no legal advice"):
        assert text in out


def test_errors_have_an_exit_code(real: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = real.shaped(tmp_path / "bad.gguf", {"gemma3.attention.sliding_window": 1024})
    assert main(["check", str(file), "--quick", "--json"]) == EXIT_FOUND
    document = json.loads(capsys.readouterr().out)
    assert [finding["id"] for finding in document["findings"]] == ["window"]
    assert document["errors"] == 1 and document["findings"][0]["cure"]
    unknown = real.shaped(tmp_path / "unknown.gguf", {"general.license": "my-own"})
    assert main(["check", str(unknown), "--quick"]) == 0
    assert main(["check", str(unknown), "--quick", "--strict"]) == EXIT_FOUND


def test_fix_and_a_bill_of_materials(
    real: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ship"
    folder.mkdir()
    real.small(folder / "model.gguf", {}, {})
    assert main(["check", str(folder), "--fix", "--sbom", str(tmp_path / "bom.json")]) == 0
    assert "wrote Notice" in capsys.readouterr().out
    assert json.loads((tmp_path / "bom.json").read_text())["bomFormat"] == "CycloneDX"


def test_a_manifest_is_signed_and_verified(
    real: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    file, key = real.small(tmp_path / "model.gguf", {}, {}), str(tmp_path / "key.pem")
    assert main(["check", str(file), "--sign", key]) == 2
    assert "no manifest" in capsys.readouterr().err
    write_manifest(file, derive(file, []))
    assert main(["check", str(file), "--sign", key, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert manifest["signature_state"] == "holds"
    public = manifest["signature"]["public_key"]
    assert main(["check", str(file), "--signed-by", public]) == 0
    assert main(["check", str(file), "--signed-by", "somebody"]) == EXIT_FOUND
    capsys.readouterr()
    written = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps(written | {"licence": "mit"}))
    assert main(["check", str(file), "--json"]) == EXIT_FOUND
    found = {finding["id"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found >= {"signature-broken", "licence-mislabelled"}


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 3
    assert "holds no model" in capsys.readouterr().err
    assert main(["check", "./nothing-here"]) == 4
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(20))
    assert main(["check", str(tmp_path / "cut.gguf")]) == 3
    assert "no model in it" in capsys.readouterr().err


def test_a_hub_that_does_not_know_or_answer() -> None:
    script = "from gemlet.provenance.check.hub import ask_hub\nimport sys\nask_hub(sys.argv[1])"
    with hub() as address:
        environ = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", script, "nobody/nothing"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert "the hub" in done.stderr and "gemlet.errors." in done.stderr
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
    assert "gemlet.errors.GemletError: nobody/nothing: the hub did not answer" in done.stderr


def test_the_hub_is_asked_only_when_wanted(real: Corpus) -> None:
    with hub() as address:
        environ = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, "-m", "gemlet", "check", str(real.path), "--online", "--json"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["hub"]
    assert found["repository"] == REPOSITORY
    values = {signal["name"]: signal["value"] for signal in found["signals"]}
    assert values["downloads"] == 123 and values["likes"] == 4 and values["last change"] == "2025-08-20"
    assert values["open discussions"] == "2 of 3 newest"
    assert values["last thread"] == "2026-01-20"
    assert values["maintainers replied to"] == "2 of 3"
    assert values["median time to reply"] == "3.0 days"
    assert all(signal["remark"] for signal in found["signals"])
