"""`load` from files to answers, on tiny random models: what it opens, refuses and reports."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gemlet
from gemlet.errors import (
    ConfigError,
    ContextLengthError,
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
)
from gemlet.text.template import template_sha256
from gemlet.types import as_dict
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf, write_tiny_hf

CONFIG = tiny_config(context_length=256)


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "chat.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(0), "Q4_0", chat_template=CHAT_TEMPLATE)
    return path


@pytest.fixture(scope="module")
def model(chat_file):
    with gemlet.load(str(chat_file), threads=1) as opened:
        yield opened


def test_an_answer_and_what_it_says_about_itself(model, chat_file):
    done = model.generate("area of a", max_tokens=8, temperature=0, ignore_eos=True)
    assert len(done.token_ids) == 8 and done.text == model.detokenize(done.token_ids)
    assert model.reference == str(chat_file)
    assert model.notices == ("stop id 106 is missing in the file and was added",)
    manifest = done.manifest
    assert manifest == model.manifest and manifest.model == str(chat_file)
    assert len(manifest.weights_sha256) == len(manifest.tokenizer_sha256) == 64
    assert manifest.template_sha256 == template_sha256() != template_sha256(base=True)
    assert manifest.weights_type == "Q4_0" and manifest.adapter_sha256 is None
    assert manifest.embedding_scale == CONFIG.embedding_scale
    assert manifest.engine_version == gemlet.__version__
    assert manifest.instruction_set and manifest.kv_type and manifest.activation_type
    assert as_dict(done)["usage"]["completion_tokens"] == 8


def test_generation_agrees_with_logits_and_score(model):
    """Greedy tokens are the argmax of `logits`, and `score` finds them greedy: one set of bits."""
    ids = model.tokenize("area of a")
    done = model.generate(ids, max_tokens=6, temperature=0, ignore_eos=True, logprobs=2)
    whole = (*ids, *done.token_ids)
    rows = model.logits(whole[:-1])[len(ids) - 1 :]
    assert tuple(rows.argmax(axis=1)) == done.token_ids
    score = model.score(ids, done.token_ids)
    assert score.is_greedy
    assert score.token_logprobs == tuple(entry.logprob for entry in done.logprobs)
    assert [entry.top[0].token_id for entry in done.logprobs] == list(done.token_ids)


def test_prefix_reuse_and_neighbours_change_no_bit(model):
    conversation = [{"role": "user", "content": "area of a wide room with a door"}]
    first = model.chat(conversation, max_tokens=12, seed=3, ignore_eos=True)
    conversation.append({"role": "assistant", "content": first.text})
    conversation.append({"role": "user", "content": "and height?"})
    warm = model.chat(conversation, max_tokens=12, seed=4, n=3)
    assert warm[0].usage.cached_tokens > 20
    with gemlet.load(model.reference, threads=2) as fresh:
        cold = fresh.chat(conversation, max_tokens=12, seed=4, n=3)
    assert cold[0].usage.cached_tokens == 0
    assert [d.token_ids for d in warm] == [d.token_ids for d in cold]
    assert warm[0].manifest == cold[0].manifest


def test_long_prompts_are_kept_for_the_next_start_unless_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tiny_config(context_length=512)
    write_tiny_gguf(tmp_path / "long.gguf", config, np.random.default_rng(0), "Q4_0")
    ids = [2, *range(300, 620)]
    cached = []
    for limit in ("1GiB", "1GiB", "0"):
        monkeypatch.setenv("GEMLET_PREFIX_CACHE", limit)
        with gemlet.load(tmp_path / "long.gguf") as opened:
            cached.append(opened.generate(ids, max_tokens=2).usage.cached_tokens)
    assert cached == [0, len(ids) // 64 * 64, 0]
    assert len(list((tmp_path / "cache/gemlet/prefixes").iterdir())) == len(ids) // 64


def test_base_model(tmp_path):
    write_tiny_gguf(tmp_path / "base.gguf", CONFIG, np.random.default_rng(0))
    with gemlet.load(tmp_path / "base.gguf", threads=1) as base:
        assert not base.has_chat_format
        assert base.manifest.template_sha256 == template_sha256(base=True)
        assert base.manifest.weights_type == "F32"


def test_folder_and_weights(tmp_path):
    write_tiny_hf(tmp_path, CONFIG, np.random.default_rng(0), dtype="BF16")
    types = {}
    for weights in ("auto", "bf16", "int8", "int4"):
        with gemlet.load(str(tmp_path), weights=weights, threads=1) as model:
            types[weights] = model.manifest.weights_type
            assert model.logits(model.tokenize("room")).shape[1] == CONFIG.vocab_size
    assert types["auto"] == types["int8"] != types["bf16"]
    assert "int4" in types["int4"]


def test_settings_fill_what_is_not_given(chat_file, monkeypatch):
    monkeypatch.setenv("GEMLET_MODEL", str(chat_file))
    monkeypatch.setenv("GEMLET_CONTEXT", "100")
    monkeypatch.setenv("GEMLET_WEIGHTS", "int8")
    with gemlet.load(threads=1) as model:
        assert model.reference == str(chat_file) and model.context == 100
        assert model.manifest.weights_type == "Q4_0"  # the library's default is as stored, not the setting
    with gemlet.load(context=120, weights=None, threads=1) as model:
        assert model.context == 120
        with pytest.raises(ContextLengthError):
            model.generate([2] * 100, max_tokens=21)
    monkeypatch.setenv("GEMLET_THREADS", "no")
    with pytest.raises(ConfigError, match="GEMLET_THREADS"):
        gemlet.load()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"context": 257}, ContextLengthError, "257"),
        ({"context": 0}, InvalidRequestError, "context"),
        ({"threads": 0}, InvalidRequestError, "threads"),
        ({"threads": True}, InvalidRequestError, "threads"),
        ({"threads": 257}, InvalidRequestError, "at most 256"),
        ({"weights": "int3"}, InvalidRequestError, "weights"),
        ({"offline": 1}, InvalidRequestError, "offline"),
        ({"draft": 1}, InvalidRequestError, "draft"),
    ],
)
def test_wrong_arguments(chat_file, options, error, message):
    with pytest.raises(error, match=message):
        gemlet.load(str(chat_file), **options)


def test_drafts_change_no_bit_and_are_reported(chat_file, tmp_path, monkeypatch):
    """From the text, from a smaller model, and from one that is the model itself."""
    small = tiny_config(layers=2, context_length=256)
    write_tiny_gguf(tmp_path / "small.gguf", small, np.random.default_rng(5), "Q8_0")
    prompt = [2, *range(300, 330)]
    options = [{"max_tokens": 120, "seed": 2, "n": 2, "logprobs": 2, "ignore_eos": True, "temperature": t}
               for t in (0, 0.3)]  # fmt: skip
    answers, acceptances = [], []
    for draft in (False, True, tmp_path / "small.gguf", str(chat_file)):
        with gemlet.load(chat_file, threads=1, draft=draft) as model:
            done = [choice for some in options for choice in model.generate(prompt, **some)]
            answers.append([(choice.token_ids, choice.logprobs) for choice in done])
            acceptances.append([choice.timings.draft_acceptance for choice in done])
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert acceptances[0] == [None] * 4
    monkeypatch.setenv("GEMLET_DRAFTS", "false")
    with gemlet.load(chat_file, threads=1) as model:
        assert model.generate(prompt, **options[0])[0].timings.draft_acceptance is None


def test_a_draft_model_with_another_tokenizer_is_refused(chat_file, tmp_path):
    other = tiny_config(context_length=256, vocab_size=600)
    write_tiny_gguf(tmp_path / "other.gguf", other, np.random.default_rng(0))
    with pytest.raises(InvalidRequestError, match=r"other.gguf cannot draft: its tokenizer is another"):
        gemlet.load(chat_file, threads=1, draft=tmp_path / "other.gguf")
    with pytest.raises(ModelNotFoundError):
        gemlet.load(chat_file, threads=1, draft="no-such-model")


def test_wrong_references(tmp_path):
    with pytest.raises(ModelNotFoundError):
        gemlet.load("google/gemma-3-1b-it", offline=True)
    with pytest.raises(InvalidRequestError):
        gemlet.load(3)
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        gemlet.load(str(tmp_path / "bad.gguf"))


def test_tokenizer_with_too_few_pieces(tmp_path, monkeypatch):
    path = tmp_path / "short.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(0))
    from gemlet.text.tokenizer import Tokenizer
    from tests.synthetic_tokenizer import tiny_tokenizer

    small = Tokenizer.from_sentencepiece(tiny_tokenizer(600))
    monkeypatch.setattr(Tokenizer, "from_source", lambda source, cache: small)
    with pytest.raises(ModelFileError, match="has 600 pieces, the embedding has 640 rows"):
        gemlet.load(str(path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork_the_child_loads_again(chat_file):
    script = f"""
        import os, warnings
        warnings.simplefilter("ignore")
        import gemlet
        model = gemlet.load({str(chat_file)!r}, threads=2)
        expected = model.generate([2, 300], max_tokens=5, seed=1).token_ids
        child = os.fork()
        if child == 0:
            for use in ("generate([2])", "logits([2])", "score('a', ' b')"):
                try:
                    eval("model." + use)
                    os._exit(1)
                except gemlet.ModelClosedError as error:
                    assert "load it again" in str(error)
            with gemlet.load({str(chat_file)!r}, threads=2) as again:
                assert again.generate([2, 300], max_tokens=5, seed=1).token_ids == expected
            model.close()
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert model.generate([2, 300], max_tokens=5, seed=1).token_ids == expected
    """
    done = run_script(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_interpreter_ends_with_a_model_open_and_running(chat_file):
    script = f"""
        import gemlet
        model = gemlet.load({str(chat_file)!r})
        events = model.generate([2, 300], max_tokens=None, ignore_eos=True, stream=True)
        next(events)
        print("end")
    """
    done = run_script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
