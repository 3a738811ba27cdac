"""KL, agreement and perplexity against plain arithmetic, and against what must hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from gemlet.errors import InvalidRequestError
from gemlet.evaluate.choices import answers, points, read_questions
from gemlet.evaluate.quality import (
    Logits,
    as_json,
    check_same_vocabulary,
    compare,
    decoder_logits,
    log_probability,
    measure_rows,
)
from gemlet.evaluate.texts import HELD_OUT, read_documents
from gemlet.model.decoder import Decoder
from gemlet.model.weights import load
from gemlet.store.load import SAMPLES
from gemlet.text.tokenizer import Tokenizer
from tests.synthetic import tiny_config, write_tiny_gguf

VOCABULARY = 50


def table(seed: int, noise: float = 0.0) -> Logits:
    """A model whose logits depend on the last token alone."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) * 2
    logits += np.float32(noise) * np.random.default_rng(seed).standard_normal(logits.shape).astype(np.float32)

    def of(ids: Sequence[int], first: int) -> Iterator[np.ndarray]:
        for start in range(first, len(ids), 3):
            yield logits[list(ids[start : start + 3])]

    return of


DOCUMENTS = [list(np.random.default_rng(i).integers(0, VOCABULARY, 8 + i)) for i in range(12)]


def test_a_row_is_what_the_definitions_say() -> None:
    rng = np.random.default_rng(3)
    p, q = rng.standard_normal((2, 4, 7)).astype(np.float32) * 3
    found = measure_rows(p, q, [2, 0, 5])
    for row in range(4):
        ours, theirs = (np.exp(x[row].astype(np.float64)) for x in (p, q))
        ours, theirs = ours / ours.sum(), theirs / theirs.sum()
        assert found[row, 0] == pytest.approx(float((ours * np.log(ours / theirs)).sum()), abs=1e-5)
        assert found[row, 1] == (ours.argmax() == theirs.argmax())
        if row < 3:
            token = [2, 0, 5][row]
            assert found[row, 2:] == pytest.approx([math.log(ours[token]), math.log(theirs[token])], abs=1e-5)
    assert np.isnan(found[3, 2:]).all()


def test_a_model_beside_itself_loses_nothing() -> None:
    found = compare(table(0), table(0), DOCUMENTS)
    assert (found.kl.low, found.kl.high, found.top1.estimate) == (0, 0, 1)
    assert found.perplexity_ratio.estimate == 1
    assert found.tokens == sum(map(len, DOCUMENTS))


def test_more_noise_loses_more_and_the_interval_holds_it() -> None:
    little, much = (compare(table(0), table(1, noise), DOCUMENTS) for noise in (0.1, 0.5))
    assert 0 < little.kl.low < little.kl.estimate < little.kl.high < much.kl.low
    assert little.kl_p99.estimate > little.kl.estimate
    mean = np.average([d.kl for d in much.documents], weights=[d.tokens for d in much.documents])
    assert much.kl.estimate == pytest.approx(float(mean))
    ratio = much.perplexity.estimate / much.perplexity_source.estimate
    assert much.perplexity_ratio.estimate == pytest.approx(ratio)
    assert as_json(much)["documents"][0]["tokens"] == len(DOCUMENTS[0])


def test_what_cannot_be_compared_is_refused() -> None:
    def narrow(ids: Sequence[int], first: int) -> Iterator[np.ndarray]:
        for rows in table(0)(ids, first):
            yield rows[:, :-1]

    with pytest.raises(InvalidRequestError, match="50 and 49"):
        compare(table(0), narrow, DOCUMENTS)
    with pytest.raises(InvalidRequestError, match="two tokens"):
        compare(table(0), table(0), [[1]])
    with pytest.raises(InvalidRequestError, match="vocabularies differ"):
        check_same_vocabulary("a", "b", (5, 5), ("0" * 64, "1" * 64))


def test_a_continuation_is_scored_behind_what_precedes_it() -> None:
    ids = DOCUMENTS[3]
    rows = np.concatenate(list(table(0)(ids, 0))).astype(np.float64)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    by_hand = sum(rows[i - 1, ids[i]] for i in range(4, len(ids)))
    assert log_probability(table(0), ids, 4) == pytest.approx(by_hand, abs=1e-4)


def test_questions_are_checked_and_counted(tmp_path: Path) -> None:
    built_in = read_questions()
    assert len(built_in) == 40
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "a", "choices": ["b", "c"], "answer": "c"}\n')
    assert read_questions(path)[0].answer == 1
    for line in (
        '{"prompt": "a", "choices": ["b", "c"], "answer": 2}',
        '{"prompt": "a", "choices": ["b"], "answer": 0}',
        '{"prompt": "a", "choices": ["b", "c"], "answer": 0, "shots": 3}',
        '{"choices": ["b", "c"], "answer": 0}',
    ):
        path.write_text(line + "\n")
        with pytest.raises(InvalidRequestError, match="line 1"):
            read_questions(path)
    found = points([True, True, False, True], [True, False, False, True])
    assert (found.source.estimate, found.model.estimate, found.difference.estimate) == (0.75, 0.5, -0.25)
    assert (found.test.only_first, found.test.only_second) == (1, 0)


def test_a_real_decoder_reads_and_answers(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", tiny_config(layers=2), np.random.default_rng(0), "Q8_0")
    loaded = load(tmp_path / "m.gguf", cache_dir=None)
    tokenizer = Tokenizer.from_source(loaded.facts.tokenizer, tmp_path)
    decoder = Decoder(loaded.facts.config, loaded.weights, executor="reference")
    documents = read_documents(HELD_OUT, tokenizer, 300)
    assert documents.tokens <= 300
    assert documents.left_out > 0
    one, three = (
        np.concatenate(list(decoder_logits(decoder, rows)(documents.ids[0], 2))) for rows in (64, 7)
    )
    assert one.shape == (len(documents.ids[0]) - 2, 640)
    assert np.allclose(one, three, atol=1e-4)
    right = answers(decoder_logits(decoder), tokenizer, read_questions()[:3])
    assert len(right) == 3


def test_the_held_out_text_is_not_the_one_that_things_are_fitted_to() -> None:
    import json

    fitted = SAMPLES.read_text(encoding="utf-8")
    for line in HELD_OUT.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        assert not any(sentence in fitted for sentence in text.split(". ") if len(sentence) > 20)
