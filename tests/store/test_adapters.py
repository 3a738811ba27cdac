"""Models with adapters: by the reference, by name, per request; what they say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemlet
from gemlet.cli.main import main
from gemlet.errors import InvalidRequestError, ModelFileError
from gemlet.model.adapters import read_adapter
from gemlet.types import as_dict
from tests.adapters import config_of, random_adapter, tensors_of, write_adapter
from tests.synthetic import tiny_config, write_tiny_gguf

CONFIG = tiny_config()
TEXT = "area of a " * 8
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(0), "Q8_0")
    return path


@pytest.fixture(scope="module")
def p(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapters") / "p", CONFIG, 1, rank=8, lora_alpha=64)


@pytest.fixture(scope="module")
def q(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapters") / "q", CONFIG, 2, rank=4, lora_alpha=64)


def test_a_reference_with_an_adapter(base: Path, p: Path) -> None:
    with gemlet.load(base) as bare:
        without = bare.generate(TEXT, **OPTIONS)
    with gemlet.load(f"{base}+{p}") as model:
        sha256 = read_adapter(p, CONFIG).sha256
        assert model.manifest.adapter_sha256 == sha256 and model.reference == f"{base}+{p}"
        assert f"adapter {p}: does not say which weights it was trained on; its shapes fit" in model.notices
        done = model.generate(TEXT, **OPTIONS)
        assert done.manifest == model.manifest and done.token_ids != without.token_ids
        again = model.generate(TEXT, adapter="p", **OPTIONS)
        assert again.token_ids == done.token_ids and again.usage.cached_tokens > 0
        plain = model.generate(TEXT, adapter="base", **OPTIONS)
        assert plain.token_ids == without.token_ids and plain.manifest.adapter_sha256 is None
        assert plain.usage.cached_tokens == 0  # what the adapter has read is of no use to the base


def test_several_in_one_model_and_one_step(base: Path, p: Path, q: Path) -> None:
    with gemlet.load(f"{base}+{p}") as one, gemlet.load(f"{base}+{q}") as other:
        alone = {"p": one.generate(TEXT, **OPTIONS), "q": other.generate(TEXT, **OPTIONS)}
    with gemlet.load(base) as model:
        alone["base"] = model.generate(TEXT, **OPTIONS)
        infos = [model.load_adapter(p), model.load_adapter(q, name="second")]
        assert list(model.adapters) == ["p", "second"] and model.adapters["second"] == infos[1]
        assert infos[0].rank == 8 and infos[0].notices and as_dict(infos[0])["name"] == "p"
        streams = {
            name: model.generate(TEXT, adapter=key, stream=True, **OPTIONS)
            for name, key in (("p", "p"), ("q", "second"), ("base", None))
        }
        done = {name: [event.token_id for event in events] for name, events in streams.items()}
        assert done == {name: list(answer.token_ids) for name, answer in alone.items()}
        assert len({tuple(ids) for ids in done.values()}) == 3


def test_every_call_takes_an_adapter(base: Path, p: Path) -> None:
    with gemlet.load(base) as model:
        model.load_adapter(p)
        ids = model.tokenize(TEXT)
        with_p = model.logits(ids, [-1], adapter="p")
        assert not np.array_equal(with_p, model.logits(ids, [-1]))
        np.testing.assert_array_equal(with_p, model.logits(ids, [-1], adapter="p"))
        assert model.score(TEXT, " a", adapter="p") != model.score(TEXT, " a")
        assert model.score_many([(TEXT, " a")], adapter="p") == [model.score(TEXT, " a", adapter="p")]
        assert not np.array_equal(model.embed([TEXT], adapter="p"), model.embed([TEXT]))
        greedy = model.generate(ids, adapter="p", max_tokens=1, temperature=0, ignore_eos=True)
        assert greedy.token_ids == (int(with_p.argmax()),)
        chat = [{"role": "user", "content": "area"}]
        with_p, plain = (model.chat(chat, adapter=name, **OPTIONS).token_ids for name in ("p", "base"))
        assert with_p != plain


def test_names(base: Path, p: Path, q: Path) -> None:
    with gemlet.load(base) as model:
        for name in ("p", "", 3, ["p"]):
            with pytest.raises(InvalidRequestError, match="no adapter named"):
                model.generate(TEXT, adapter=name)
        model.load_adapter(p)
        assert model.load_adapter(p) == model.adapters["p"]  # the same again is the same
        with pytest.raises(InvalidRequestError, match="another adapter named 'p'"):
            model.load_adapter(q, name="p")
        for name in ("base", ""):
            with pytest.raises(InvalidRequestError, match="cannot be the name"):
                model.load_adapter(q, name=name)
        events = model.generate(TEXT, adapter="p", stream=True, **OPTIONS)
        next(events)
        model.unload_adapter("p")
        assert not model.adapters and len(list(events)) == OPTIONS["max_tokens"] - 1  # it runs to its end
        with pytest.raises(InvalidRequestError, match="no adapter named 'p'"):
            model.generate(TEXT, adapter="p")
        with pytest.raises(InvalidRequestError, match="no adapter named 'p'"):
            model.unload_adapter("p")


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    with gemlet.load(base) as model:
        sha256 = model.manifest.weights_sha256
        tensors = tensors_of(CONFIG, np.random.default_rng(0))
        ours = write_adapter(tmp_path / "ours", config_of(), tensors, base=sha256)
        assert model.load_adapter(ours).notices == ()
        other = write_adapter(tmp_path / "other", config_of(), tensors, base="0" * 64)
        with pytest.raises(ModelFileError, match="base_weights_sha256"):
            model.load_adapter(other)
        narrow = random_adapter(tmp_path / "narrow", tiny_config(hidden_size=32), 0)
        with pytest.raises(ModelFileError, match="has the shape"):
            model.load_adapter(narrow)
    with pytest.raises(ModelFileError, match="base_weights_sha256"):
        gemlet.load(f"{base}+{other}")


def test_show_says_what_it_is(base: Path, p: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"{base}+{p}", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["adapter"]
    file = read_adapter(p, CONFIG)
    assert shown["sha256"] == file.sha256 and shown["base_weights_sha256"] is None
    assert (shown["rank"], shown["parameters"]) == (8, file.parameters)
    assert main(["show", f"{base}+{p}"]) == 0
    out = capsys.readouterr().out
    assert f"adapter      {p}, sha256 {file.sha256[:16]}…" in out
    assert "low rank     8, on attn_q, attn_k" in out and "its files do not say" in out
    assert main(["show", str(base), "--json"]) == 0
    assert "adapter" not in json.loads(capsys.readouterr().out)


def test_run_answers_with_the_adapter(
    base: Path, p: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    arguments = ["--raw", "-n", "8", "-t", "0", "--json", TEXT]
    assert main(["run", "-m", f"{base}+{p}", *arguments]) == 0
    captured = capsys.readouterr()
    done = json.loads(captured.out)
    assert done["manifest"]["adapter_sha256"] == read_adapter(p, CONFIG).sha256
    assert "does not say which weights it was trained on" in captured.err
