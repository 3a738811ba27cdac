"""lm-eval's `local-completions` against the server: the log-probabilities it reads are the library's."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from gemlet import load
from tests.parity.real import Real
from tests.serve.conftest import Server, serving

DOCUMENTS = [
    {"q": "The capital of France is", "options": ["Paris", "London", "a blue door"], "gold": 0},
    {"q": "Two and two make", "options": ["seven", "four", "of the"], "gold": 1},
    {"q": "El perro es un", "options": ["animal", "número", "verbo  que"], "gold": 0},
    {"q": "def add(a, b):\n    return", "options": ["a + b", "None of them", "pass"], "gold": 0},
]
CHOICES = """
    task: choices
    output_type: multiple_choice
    doc_to_text: "{{q}}"
    doc_to_choice: "{{options}}"
    doc_to_target: "{{gold}}"
    target_delimiter: " "
"""
WRITING = """
    task: writing
    output_type: generate_until
    doc_to_text: "{{q}}"
    doc_to_target: "{{options[gold]}}"
    generation_kwargs: {until: ["."], max_gen_toks: 8}
    metric_list: [{metric: exact_match}]
"""
SOURCE = """
    dataset_path: json
    dataset_kwargs: {data_files: {test: %s}}
    test_split: test
"""


@pytest.fixture(scope="module")
def server(real: Real) -> Iterator[Server]:
    with load(real.path) as model, serving(model) as running:
        yield running


def test_scores_and_answers_are_the_librarys(server: Server, true_tokenizer: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS), encoding="utf-8")
    for name, text in (("choices", CHOICES), ("writing", WRITING)):
        (tmp_path / f"{name}.yaml").write_text(textwrap.dedent(text + SOURCE % data), encoding="utf-8")
    arguments = {
        "model": server.client().models.list().data[0].id,
        "base_url": f"{server.url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(true_tokenizer),
        "add_bos_token": True,
        "num_concurrent": 2,
        "max_retries": 1,
    }
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=arguments,
        tasks=["choices", "writing"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    model = server.model
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    assert [len(samples[name]) for name in ("choices", "writing")] == [len(DOCUMENTS)] * 2
    for sample in samples["choices"]:
        document = sample["doc"]
        prompt = model.tokenize(document["q"])
        for option, ((logprob, greedy),) in zip(document["options"], sample["resps"], strict=True):
            whole = model.tokenize(f"{document['q']} {option}")
            assert whole[: len(prompt)] == prompt
            score = model.score(prompt, whole[len(prompt) :])
            assert (logprob, greedy) == (score.logprob, score.is_greedy)
    for sample in samples["writing"]:
        alone = model.generate(sample["doc"]["q"], temperature=0.0, max_tokens=8, stop=".")
        assert sample["resps"] == [[alone.text]]
