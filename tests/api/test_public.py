"""The library as an outsider meets it: lazy names, signatures as documented, values that are frozen."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys

import pytest

import gemlet
from gemlet import types

SHARED = {
    "n": 1,
    "stop": (),
    "seed": None,
    "logprobs": 0,
    "ignore_eos": False,
    "adapter": None,
    "stream": False,
    "response_format": None,
    "regex": None,
    "grammar": None,
    "truncation": None,
    "cache": True,
    "draft": True,
}


def test_importing_loads_nothing_heavy_and_naming_loads_it():
    code = (
        "import sys, gemlet; assert 'numpy' not in sys.modules and 'gemlet.infer' not in sys.modules;"
        "gemlet.Message, gemlet.Sampling, gemlet.GemletError, gemlet.__version__;"
        "assert 'numpy' not in sys.modules and 'Model' in dir(gemlet);"
        "gemlet.load; assert 'numpy' in sys.modules and not {'rich', 'torch', 'socket'} & set(sys.modules);"
        "assert gemlet.load is gemlet.store.load.load and gemlet.Model is gemlet.infer.chat.Model"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="'gemlet' has no attribute 'laod'"):
        gemlet.laod  # noqa: B018


@pytest.mark.parametrize(
    ("name", "first", "defaults"),
    [
        ("generate", "prompt", {"max_tokens": 256, **SHARED}),
        ("agenerate", "prompt", {"max_tokens": 256, **SHARED}),
        *(
            (
                name,
                "messages",
                {
                    "max_tokens": None,
                    "tools": None,
                    "tool_choice": None,
                    "parallel_tool_calls": None,
                    **SHARED,
                },
            )
            for name in ("chat", "achat")
        ),
    ],
)
def test_answering_calls_have_the_documented_parameters(name, first, defaults):
    parameters = dict(inspect.signature(getattr(gemlet.Model, name)).parameters)
    assert list(parameters)[:2] == ["self", first]
    keywords = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == defaults
    assert next(reversed(parameters.values())).kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("logits", "ids, positions=None, *, adapter=None"),
        ("score", "context, continuation, *, adapter=None"),
        ("score_many", "pairs, *, adapter=None"),
        ("load_adapter", "path, name=None"),
        ("unload_adapter", "name"),
        ("tokenize", "text, bos=True"),
        ("detokenize", "ids"),
        ("render", "messages, tools=None, strict=False"),
        ("embed", "texts, *, adapter=None"),
        ("close", ""),
    ],
)
def test_other_calls_have_the_documented_parameters(name, parameters):
    signature = inspect.signature(getattr(gemlet.Model, name))
    bare = [p.replace(annotation=p.empty) for p in list(signature.parameters.values())[1:]]
    assert str(inspect.Signature(bare)) == f"({parameters})"


def test_load_has_the_documented_parameters():
    parameters = inspect.signature(gemlet.load).parameters
    assert next(iter(parameters)) == "ref"
    documented = {"weights": "auto", "context": None, "threads": None, "offline": None}
    assert documented.items() <= {k: p.default for k, p in parameters.items()}.items()
    assert all(parameters[k].kind is inspect.Parameter.KEYWORD_ONLY for k in documented)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (
            gemlet.Completion,
            "text token_ids finish_reason stop_reason tool_calls logprobs seed sampling usage timings "
            "normalisations manifest",
        ),
        (gemlet.TokenEvent, "text token_id logprob index completion top tool_calls"),
        (gemlet.Message, "role content tool_calls tool_call_id name"),
        (gemlet.Score, "logprob token_ids token_logprobs is_greedy"),
        (
            gemlet.Sampling,
            "temperature top_k top_p min_p repetition_penalty presence_penalty frequency_penalty logit_bias",
        ),
        (types.Usage, "prompt_tokens cached_tokens completion_tokens"),
        (types.TokenLogprob, "token token_id logprob top"),
        (
            types.Timings,
            "queue_s prefill_s decode_s ttft_s prefill_tokens_per_s decode_tokens_per_s draft_acceptance "
            "cache_miss_reason",
        ),
    ],
)
def test_results_are_frozen_and_have_the_documented_fields(value, fields):
    assert {field.name for field in dataclasses.fields(value)} == set(fields.split())
    assert value.__dataclass_params__.frozen
