"""Logits, scores and embeddings: equal to those computed by hand, in whatever way they are asked for."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gemlet.errors import InvalidRequestError
from gemlet.infer import reading as reading_module
from tests.infer.fake_model import VOCABULARY, fake_decoder, fake_model
from tests.infer.fakes import hidden_after, logits_after
from tests.infer.test_leaving import idle

PROMPT = "The area of a wide room"


@pytest.fixture(scope="module")
def model():
    with fake_model() as opened:
        yield opened


def rows_by_hand(ids):
    return np.array([logits_after(tuple(ids[: i + 1]), VOCABULARY) for i in range(len(ids))])


def test_logits(model):
    ids = model.tokenize(PROMPT)
    expected = rows_by_hand(ids)
    got = model.logits(ids)
    assert got.dtype == np.float32 and np.array_equal(got, expected)
    assert np.array_equal(model.logits(ids, positions=[-1]), expected[-1:])
    assert np.array_equal(model.logits(ids, positions=[3, 0, 3]), expected[[3, 0, 3]])
    assert model.logits(ids, positions=[]).shape == (0, VOCABULARY)
    for wrong in ([len(ids)], [-len(ids) - 1], ["x"], np.zeros((1, 2), int)):
        with pytest.raises(InvalidRequestError):
            model.logits(ids, positions=wrong)


def test_too_many_logits_must_name_positions(model, monkeypatch):
    monkeypatch.setattr(reading_module, "MAX_LOGITS_BYTES", 4 * VOCABULARY * 5)
    assert model.logits([2] * 5).shape == (5, VOCABULARY)
    with pytest.raises(InvalidRequestError, match="6 positions") as caught:
        model.logits([2] * 6)
    assert "name the positions" in caught.value.hint
    assert model.logits([2] * 6, positions=range(6)).shape == (6, VOCABULARY)


def check_score(score, ids, start):
    rows = rows_by_hand(ids).astype(np.float64)
    expected = []
    for i in range(start, len(ids)):
        row = rows[i - 1]
        expected.append(row[ids[i]] - row.max() - np.log(np.exp(row - row.max()).sum()))
    assert score.token_ids == tuple(ids[start:])
    assert score.token_logprobs == pytest.approx(expected, abs=1e-12)
    assert score.logprob == pytest.approx(sum(expected), abs=1e-10)
    assert score.is_greedy == all(rows[i - 1].argmax() == ids[i] for i in range(start, len(ids)))


@pytest.mark.parametrize(
    ("context", "continuation", "bare"),
    [
        ("area of a", " room", "area of a"),
        ("area of a ", "room", "area of a"),  # the space belongs to the continuation
        ("area of a  \n", "room", "area of a"),
        ("", "room", ""),
        ("  ", "room", ""),
    ],
)
def test_score_follows_lm_evals_rule(model, context, continuation, bare):
    ids = model.tokenize(context + continuation)
    check_score(model.score(context, continuation), ids, len(model.tokenize(bare)))


def test_a_token_across_the_border_counts_as_in_lm_eval(model):
    """The continuation's tokens are read behind those that the context has alone, not behind the whole's."""
    context, continuation = "area of a roo", "m and a door"
    before, whole = model.tokenize(context), model.tokenize(context + continuation)
    assert whole[: len(before)] != before and len(whole) > len(before)
    check_score(model.score(context, continuation), [*before, *whole[len(before) :]], len(before))


def test_score_of_ids(model):
    check_score(model.score([2, 300], [301, 302]), [2, 300, 301, 302], 2)
    check_score(model.score([], [301]), [2, 301], 1)


def test_greedy_continuation_is_found(model):
    greedy = model.generate([2, 300], max_tokens=4, temperature=0, ignore_eos=True)
    assert model.score([2, 300], greedy.token_ids).is_greedy
    assert not model.score([2, 300], (*greedy.token_ids[:3], greedy.token_ids[3] ^ 1)).is_greedy


@pytest.mark.parametrize("pair", [("a", ""), ("", ""), ([2], []), ("a", [3]), ([2], "a")])
def test_scores_that_cannot_be(model, pair):
    with pytest.raises(InvalidRequestError):
        model.score(*pair)


def test_score_many_keeps_the_order(model):
    pairs = [([2, 300 + i % 50], [301, 302 + i % 7]) for i in range(100)]
    together = model.score_many(pairs)
    assert together == [model.score(*pair) for pair in pairs]
    assert model.score_many([]) == []


def test_embed(model):
    texts = ["area of a room", "wide", ""]
    vectors = model.embed(texts)
    assert vectors.shape == (3, model.config.hidden_size) and vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        ids = tuple(model.tokenize(text))
        hidden = [hidden_after(ids[: i + 1]) for i in range(len(ids))]
        mean = np.mean(hidden[1:] or hidden, axis=0, dtype=np.float64)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert np.array_equal(model.embed([model.tokenize(text) for text in texts]), vectors)
    assert np.array_equal(asyncio.run(model.aembed(texts)), vectors)
    assert model.embed([]).shape == (0, model.config.hidden_size)
    for wrong in ("text", [1], [[]]):
        with pytest.raises(InvalidRequestError):
            model.embed(wrong)


@pytest.mark.parametrize("top", [0, 3])
def test_prompt_logprobs(model, top):
    ids = [2, 300, 301, 302, 310]
    tokens = model.prompt_logprobs(ids, top)
    assert [token.token_id for token in tokens] == ids[1:]
    rows = rows_by_hand(ids).astype(np.float64)
    for token, row in zip(tokens, rows, strict=False):
        logprobs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert token.logprob == pytest.approx(logprobs[token.token_id], abs=1e-5)
        assert [one.token_id for one in token.top] == np.argsort(-row, kind="stable")[:top].tolist()
        # A reader that looks for a token among the likeliest compares the numbers.
        assert all(one.logprob == token.logprob for one in token.top if one.token_id == token.token_id)
    assert model.score(ids[:1], ids[1:]).token_logprobs == tuple(token.logprob for token in tokens)
    assert asyncio.run(model.aprompt_logprobs(ids, top)) == tokens
    assert model.prompt_logprobs([2]) == ()


def test_cancelled_readings_leave_the_engine():
    async def work(model):
        task = asyncio.ensure_future(model.aembed([[2] * 200] * 5))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with fake_model(fake_decoder(delay=0.3)) as model:  # 35 steps, unless it is cancelled
        asyncio.run(work(model))
        assert idle(model, 5)
