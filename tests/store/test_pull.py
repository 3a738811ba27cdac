"""Downloads through the real huggingface_hub, from a stand-in for the hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemlet
from gemlet.cli.main import main
from gemlet.errors import DownloadError, InvalidRequestError, LicenceError, ModelNotFoundError
from gemlet.provenance.licences import GEMMA
from gemlet.store import hub as hub_module
from gemlet.store import pull as pull_module
from gemlet.store.acceptance import acceptance_file, accepted
from gemlet.store.hub import Hub
from gemlet.store.inventory import entries
from gemlet.store.pull import pull
from gemlet.store.references import resolve
from tests.store.hub_standin import COMMIT, Standin, files_of, standing_in, stopped
from tests.synthetic import tiny_config, write_tiny_gguf, write_tiny_hf

pytest.importorskip("huggingface_hub")

PLAIN = "someone/tiny-model"
GATED = "google/gemma-3-1b-it"
GGUF = "someone/tiny-GGUF"


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("repositories")
    config = tiny_config()
    write_tiny_hf(folder / "hf", config, np.random.default_rng(1))
    gguf: dict[str, bytes] = {}
    for kind in ("F16", "Q8_0"):
        write_tiny_gguf(folder / f"tiny-{kind}.gguf", config, np.random.default_rng(2))
        gguf[f"tiny-{kind}.gguf"] = (folder / f"tiny-{kind}.gguf").read_bytes()
    checkpoint = files_of(folder / "hf") | {"README.md": b"---\nlicense: gemma\n---\n", "art.png": b"x"}
    return {PLAIN: checkpoint, GATED: checkpoint, GGUF: gguf | {"README.md": b"files"}}


@pytest.fixture
def hub(
    contents: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standin]:
    with standing_in(Standin(contents)) as standin:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield standin


def quick(hub: Standin, wait: Callable[[float], None] = lambda seconds: None) -> Hub:
    return Hub(wait, hub.address, Path(os.environ["HF_HUB_CACHE"]))


def test_a_checkpoint_comes_whole_and_only_what_is_needed(hub: Standin) -> None:
    seen: list[tuple[int, int]] = []
    (pulled,) = pull(PLAIN, progress=lambda done, total: seen.append((done, total)), hub=quick(hub))
    names = {file.name for file in pulled.files}
    assert "art.png" not in names and {"config.json", "model.safetensors", "README.md"} <= names
    assert pulled.commit == COMMIT and pulled.fetched_bytes == seen[-1][1] == seen[-1][0]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    for file in pulled.files:
        assert Path(file.path).read_bytes() == hub.repositories[PLAIN][file.name]
        assert file.verdict == "hub"
    with gemlet.load(PLAIN) as model:
        assert len(model.generate([2, 5, 6], max_tokens=3, ignore_eos=True).token_ids) == 3
    (entry,) = [one for one in entries() if one.reference == PLAIN]
    assert entry.complete and entry.packed and entry.revision == COMMIT


def test_what_is_here_does_not_come_again(hub: Standin) -> None:
    pull(PLAIN, hub=quick(hub))
    hub.requests.clear()
    (again,) = pull(PLAIN, hub=quick(hub))
    assert again.fetched_bytes == 0
    assert not [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def test_a_cut_connection_is_taken_up_where_it_ended(hub: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hub.repositories[PLAIN]["model.safetensors"]
    hub.faults.append(("model.safetensors", "cut", len(data) // 2))
    (pulled,) = pull(PLAIN, hub=quick(hub))
    assert Path(pulled.path, "model.safetensors").read_bytes() == data
    ranges = [wanted for _, path, wanted in hub.requests if path.endswith("model.safetensors") and wanted]
    assert ranges and all(int(one.split("=")[1].split("-")[0]) > 0 for one in ranges)


@pytest.mark.parametrize(
    ("token", "words", "hint"),
    [
        (None, "there is no token here", "hf auth login"),
        ("hf_unknown", "does not take the token", "settings/tokens"),
        ("hf_known", "has not accepted its terms", "accept the terms at https://huggingface.co/google"),
    ],
)
def test_gated_repositories_say_which_it_is(
    hub: Standin, monkeypatch: pytest.MonkeyPatch, token: str | None, words: str, hint: str
) -> None:
    hub.gated[GATED] = "hf_good"
    hub.known_tokens.add("hf_known")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(LicenceError, match=words) as caught:
        pull("gemma-3-1b-it", consent=lambda *_: True, hub=quick(hub))
    assert hint in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    (pulled,) = pull("gemma-3-1b-it", consent=lambda *_: True, hub=quick(hub))
    assert Path(pulled.path, "config.json").exists()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nobody/nothing", "knows no such repository"),
        (f"{PLAIN}@v9", "it has no revision"),
        (f"{GGUF}:Q5_1", "it has no file 'Q5_1'"),
        ("gemma-4", "no model named"),
    ],
)
def test_what_is_not_there(hub: Standin, reference: str, words: str) -> None:
    with pytest.raises(ModelNotFoundError, match=words):
        pull(reference, hub=quick(hub))


def test_of_several_files_one_has_to_be_named(hub: Standin) -> None:
    with pytest.raises(InvalidRequestError, match="holds 2 fitting models") as caught:
        pull(GGUF, hub=quick(hub))
    assert f"{GGUF}:tiny-Q8_0.gguf" in str(caught.value) and "MB" in str(caught.value)
    (pulled,) = pull(f"{GGUF}:q8_0", hub=quick(hub))
    assert Path(pulled.path).name == "tiny-Q8_0.gguf"
    assert resolve(f"{GGUF}:q8_0").path == Path(pulled.path)
    assert {file.name for file in pulled.files} == {"tiny-Q8_0.gguf", "README.md"}


def test_trouble_that_passes_is_waited_for(hub: Standin) -> None:
    pauses: list[float] = []
    hub.faults += [
        ("/api/models", "status", (503, {})),
        ("/api/models", "status", (429, {"Retry-After": "7"})),
    ]
    (pulled,) = pull(PLAIN, hub=quick(hub, pauses.append))
    assert pulled.commit == COMMIT and pauses == [2.0, 7.0]


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (500, {}, "answers 'main' with 500"),
        (503, {}, "answers 'main' with 503"),
        (429, {"Retry-After": "3600"}, "takes no more requests"),
        (418, {}, "answers 'main' with 418"),
    ],
)
def test_trouble_that_stays_ends(hub: Standin, status: int, headers: dict[str, str], words: str) -> None:
    hub.faults += [("/api/models", "status", (status, headers))] * 20
    with pytest.raises(DownloadError, match=words) as caught:
        pull(PLAIN, hub=quick(hub))
    assert caught.value.exit_code == 12
    assert len(hub.requests) <= 8


def test_the_hub_cannot_be_reached(hub: Standin) -> None:
    with pytest.raises(DownloadError, match="did not come whole") as caught:
        pull(PLAIN, hub=Hub(lambda seconds: None, "http://127.0.0.1:9", Path(os.environ["HF_HUB_CACHE"])))
    assert "check the connection" in str(caught.value)


def test_a_wrong_hash_is_never_used(hub: Standin) -> None:
    data = hub.repositories[PLAIN]["model.safetensors"]
    hub.lies["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(DownloadError, match=r"model\.safetensors has the wrong hash") as caught:
        pull(PLAIN, hub=quick(hub))
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    with pytest.raises(ModelNotFoundError):
        resolve(PLAIN)
    hub.lies.clear()
    pull(PLAIN, hub=quick(hub))
    assert resolve(PLAIN).path.is_dir()


def test_a_file_that_changed_on_the_disk_is_found_and_set_aside(hub: Standin) -> None:
    (pulled,) = pull(PLAIN, hub=quick(hub))
    blob = Path(pulled.path, "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(DownloadError, match="wrong hash") as caught:
        pull(PLAIN, hub=quick(hub))
    assert "set aside" in str(caught.value) and blob.with_name(blob.name + ".wrong").exists()
    with pytest.raises(ModelNotFoundError):
        resolve(PLAIN)
    pull(PLAIN, hub=quick(hub))
    assert Path(pulled.path, "model.safetensors").read_bytes() == hub.repositories[PLAIN]["model.safetensors"]


def test_no_room(hub: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1000))
    with pytest.raises(DownloadError, match="MB free"):
        pull(PLAIN, hub=quick(hub))
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_a_disk_that_fills_up(hub: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_module.os, "fsync", full)
    with pytest.raises(DownloadError, match="no space left"):
        pull(PLAIN, hub=quick(hub))


def test_terms_are_asked_for_once(hub: Standin) -> None:
    with pytest.raises(LicenceError, match="Gemma Terms of Use are not accepted") as caught:
        pull("gemma-3-1b-it", hub=quick(hub))
    assert "--accept-licence" in str(caught.value) and not acceptance_file().exists()
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]
    asked: list[str] = []

    def consent(licence: Any, repository: str) -> bool:
        asked.append(f"{licence.id} {repository}")
        return True

    pull("gemma-3-1b-it", consent=consent, hub=quick(hub))
    pull("gemma-3-1b-it", consent=consent, hub=quick(hub))
    assert asked == [f"gemma {GATED}"]
    known = accepted(GEMMA)
    assert known is not None and (known.version, known.repository) == ("2025-03-24", GATED)
    hub.licences[PLAIN] = "llama3.2"
    with pytest.raises(LicenceError, match=r"Llama 3\.2"):
        pull(PLAIN, hub=quick(hub))


@pytest.mark.parametrize("text", ["", "{", '{"accepted": 5}', '{"accepted": [{"licence": "gemma"}]}'])
def test_a_damaged_record_of_acceptance_accepts_nothing(hub: Standin, text: str) -> None:
    acceptance_file().parent.mkdir(parents=True, exist_ok=True)
    acceptance_file().write_text(text)
    with pytest.raises(LicenceError, match="cannot be read"):
        pull("gemma-3-1b-it", consent=lambda *_: True, hub=quick(hub))


def test_the_command(
    hub: Standin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "Hub", lambda: quick(hub))
    assert main(["pull", "gemma-3-1b-it"]) == LicenceError.exit_code
    told = capsys.readouterr().err
    assert "Gemma Terms of Use (2025-03-24)" in told and GEMMA.url in told
    assert main(["pull", "gemma-3-1b-it", "--accept-licence", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pulled"][0]["repository"] == GATED
    assert main(["ls", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["names"] == ["gemma-3-1b-it"] and model["complete"]
    assert main(["ls"]) == 0
    assert "google/gemma-3-1b-it (gemma-3-1b-it)" in capsys.readouterr().out
    assert main(["rm", "gemma-3-1b-it"]) == InvalidRequestError.exit_code  # nobody to ask
    assert main(["rm", "gemma-3-1b-it", "--yes"]) == 0
    assert "MB freed" in capsys.readouterr().out
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == []
    assert not list(Path(os.environ["HF_HUB_CACHE"]).glob("models--*"))


def test_ctrl_c_keeps_what_came(hub: Standin) -> None:
    """With a hub that gives a part of a file and then nothing, on an open connection."""
    data = hub.repositories[PLAIN]["model.safetensors"]
    hub.faults.append(("model.safetensors", "stall", len(data) // 2))
    parts = Path(os.environ["HF_HUB_CACHE"])

    def half() -> bool:
        part = next(parts.rglob(f"{hashlib.sha256(data).hexdigest()}.gemlet.part"), None)
        return part is not None and bool(part.stat().st_size)

    seconds, said = stopped(hub, PLAIN, half)
    assert b"what has come is kept" in said
    assert seconds < 8  # less than the connection would be waited for
    (part,) = parts.rglob(f"{hashlib.sha256(data).hexdigest()}.gemlet.part")
    kept = part.read_bytes()
    assert kept and data.startswith(kept)
    pull(PLAIN, hub=quick(hub))
    ranges = [wanted for _, path, wanted in hub.requests if path.endswith("model.safetensors") and wanted]
    assert ranges[-1] == f"bytes={len(kept)}-"


@pytest.mark.parametrize("status", [429, 503])
def test_ctrl_c_ends_a_wait_for_a_busy_hub(hub: Standin, status: int) -> None:
    hub.faults += [("config.json", "status", (status, {"Retry-After": "50"}))] * 40

    def refused() -> bool:
        return any(path.endswith("/config.json") for _, path, _ in hub.requests)

    seconds, said = stopped(hub, PLAIN, refused)
    assert seconds < 20 and b"stopped" in said


def test_a_name_that_leads_out_of_the_cache_is_refused(hub: Standin) -> None:
    hub.repositories = {PLAIN: {**hub.repositories[PLAIN], "../../model.gguf": b"x"}}
    with pytest.raises(DownloadError, match="no hash or no name"):
        pull(PLAIN, hub=quick(hub))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("art.png", "holds no weights"),
        ("config.json", "holds no weights"),
        ("pytorch_model.bin", "is a pickle"),
        ("other.safetensors", "is not what its configuration goes with"),
        ("model-00001-of-00002.safetensors", "is one shard"),
        ("x-00001-of-00002.gguf", "is one part of a split"),
    ],
)
def test_a_file_that_is_no_model_is_refused(hub: Standin, file: str, words: str) -> None:
    hub.repositories = {PLAIN: {**hub.repositories[PLAIN], file: b"x"}}
    with pytest.raises(InvalidRequestError, match=words) as caught:
        pull(f"{PLAIN}:{file}", hub=quick(hub))
    assert f"gemlet pull {PLAIN}" in str(caught.value)
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_weights_that_are_named_bring_what_they_need(hub: Standin) -> None:
    hub.repositories = {PLAIN: {**hub.repositories[PLAIN], "model.fp16.safetensors": b"x"}}
    (pulled,) = pull(f"{PLAIN}:model.safetensors", hub=quick(hub))
    names = {file.name for file in pulled.files}
    assert {"config.json", "model.safetensors"} <= names and "model.fp16.safetensors" not in names
    assert resolve(f"{PLAIN}:model.safetensors").path == Path(pulled.path)


def test_unknown_terms_are_shown_and_asked_for(hub: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    hub.licences[PLAIN] = "other"
    hub.more_of_cards[PLAIN] = {"license_name": "acme-model-licence", "license_link": "LICENSE"}
    with pytest.raises(LicenceError, match="acme-model-licence") as caught:
        pull(PLAIN, hub=quick(hub))
    assert f"https://huggingface.co/{PLAIN}/blob/main/LICENSE" in str(caught.value)
    shown: list[str] = []
    pull(PLAIN, consent=lambda licence, _: not shown.append(licence.name), hub=quick(hub))
    pull(PLAIN, consent=lambda licence, _: not shown.append(licence.name), hub=quick(hub))
    assert shown == ["terms 'acme-model-licence'"]
    hub.licences[GGUF], hub.more_of_cards[GGUF] = "other", {"license_name": "acme-model-licence"}
    with pytest.raises(LicenceError):  # whoever uses that name elsewhere
        pull(f"{GGUF}:q8_0", hub=quick(hub))


@pytest.mark.parametrize("variable", ["GEMLET_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_what_is_here_is_enough(
    hub: Standin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    (before,) = pull(PLAIN, hub=quick(hub))
    hub.requests.clear()
    monkeypatch.setenv(variable, "1")
    (pulled,) = pull(PLAIN)
    assert not hub.requests and not pulled.asked and pulled.fetched_bytes == 0
    assert {(f.name, f.sha256, f.verdict) for f in pulled.files} == {
        (f.name, f.sha256, f.verdict) for f in before.files
    }
    assert main(["pull", PLAIN]) == 0
    assert "it is all here" in capsys.readouterr().out
    blob = Path(pulled.path, "config.json").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(DownloadError, match="wrong hash"):
        pull(PLAIN)
    blob.unlink()
    with pytest.raises(DownloadError, match="network is switched off"):
        pull(PLAIN)
    with pytest.raises(DownloadError, match="it is not downloaded"):
        pull(GGUF)


def test_a_wrong_file_is_listed_and_removed(hub: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    (pulled,) = pull(PLAIN, hub=quick(hub))
    blob = Path(pulled.path, "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(DownloadError, match="wrong hash"):
        pull(PLAIN, hub=quick(hub))
    pull(PLAIN, hub=quick(hub))
    assert main(["ls"]) == 0
    assert f"{PLAIN} (a wrong file)" in capsys.readouterr().out
    assert main(["rm", f"{PLAIN} (a wrong file)", "--yes"]) == 0
    assert not list(Path(os.environ["HF_HUB_CACHE"]).rglob("*.wrong"))
    assert resolve(PLAIN).path.is_dir()
