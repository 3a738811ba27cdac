"""The sampler against a plain float64 version of its definition, and against what must not change a draw."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlet.errors import GemletError, InvalidRequestError, UnsupportedParameterError
from gemlet.infer import sample
from gemlet.infer.sample import Sampler, check_seed, choose, draw_seed, logprob, merge_sampling, uniform
from gemlet.ops.batch import Largest
from gemlet.types import Sampling
from tests.infer.fakes import FakeDecoder

RANKING = FakeDecoder()
NEUTRAL = Sampling()


def plain_choose(row, sampling, u):
    """The definition, step by step over the whole vocabulary."""
    values = row.astype(np.float64)
    order = sorted(range(len(row)), key=lambda i: (-values[i], i))
    if sampling.temperature == 0:
        return order[0]
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = [math.exp((values[i] - values[order[0]]) / sampling.temperature) for i in order]
    total, before, kept = sum(weights), 0.0, []
    for token, weight in zip(order, weights, strict=True):
        if kept and not before < sampling.top_p * total:
            break
        kept.append((token, weight))
        before += weight
    kept = [(token, weight) for token, weight in kept if weight >= sampling.min_p]
    target, reached = u * sum(weight for _, weight in kept), 0.0
    for token, weight in kept:
        reached += weight
        if reached > target:
            return token
    return kept[-1][0]


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.7, 30.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 30, 10_000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)


@given(samplings, st.integers(0, 2**32), st.integers(2, 60), st.booleans())
@settings(max_examples=400, deadline=None)
def test_choice_equals_the_definition(sampling, seed, size, ties):
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 3, size).astype(np.float32)
    if ties:
        row = np.round(row)
    u = rng.random()
    assert choose(row, sampling, u, RANKING) == plain_choose(row, sampling, u)


@given(samplings, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_short_reach_gives_the_same_choice(sampling, seed):
    """Whether the ranked candidates suffice or the vocabulary is sorted must not show."""
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 2, 50).astype(np.float32)
    u = rng.random()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "REACH", int(rng.integers(1, 12)))
        assert choose(row, sampling, u, RANKING) == plain_choose(row, sampling, u)


@given(samplings, st.integers(0, 2**32), st.integers(2, 60), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_as_many_of_the_largest_as_a_sampler_reaches_are_enough(sampling, seed, size, more):
    row = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32).round(1)
    sampler = Sampler(sampling, seed=seed % 2**32, choice=0, prompt_ids=(), ranking=RANKING)
    if sampler.reach is None:
        assert sampling.top_k == 0 or sampling.top_k > sample.REACH
        return
    largest = Largest(*RANKING.top_k(row, min(size, sampler.reach + more)))
    for position in range(20):
        assert sampler.choose(largest, position) == sampler.choose(row, position)


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"logit_bias": {3: 1.0}},
        {"top_k": 0},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": sample.REACH + 1},
    ],
)
def test_what_can_change_or_want_any_logit_reaches_all(changes):
    sampling = replace(Sampling(temperature=0.5, top_k=10), **changes)
    assert Sampler(sampling, seed=0, choice=0, prompt_ids=(), ranking=RANKING).reach is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_largest_logits_that_are_not_finite_are_refused(temperature):
    sampling = Sampling(temperature=temperature, top_k=2)
    largest = Largest(np.array([3, 3], np.int32), np.array([np.nan, np.nan], np.float32))
    with pytest.raises(GemletError, match="not finite"):
        Sampler(sampling, seed=0, choice=0, prompt_ids=(), ranking=RANKING).choose(largest, 5)


def test_frequencies_follow_the_truncated_softmax():
    row = np.log(np.array([4, 3, 2, 1], np.float32))
    draws = 20_000
    counts = np.zeros(4)
    for position in range(draws):
        counts[choose(row, replace(NEUTRAL, top_p=0.85), uniform(5, 0, position), RANKING)] += 1
    # 4, 3 and 2 of 10 are kept (0.4 + 0.3 < 0.85). Five standard deviations of a binomial share.
    expected = np.array([4, 3, 2, 0]) / 9
    assert np.all(np.abs(counts / draws - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws))


def test_top_k_counts_before_top_p():
    """HF's order: top-p looks at the probabilities that top-k left, so 0.6 keeps one of two here."""
    row = np.log(np.array([4, 2, 2, 2], np.float32))
    both, alone = replace(NEUTRAL, top_k=2, top_p=0.6), replace(NEUTRAL, top_p=0.6)
    numbers = np.linspace(0, 0.999, 50)
    assert {choose(row, both, u, RANKING) for u in numbers} == {0}
    assert {choose(row, alone, u, RANKING) for u in numbers} == {0, 1}


def test_greedy_takes_the_lowest_of_equal_ids():
    assert choose(np.array([1, 7, 7, 0], np.float32), replace(NEUTRAL, temperature=0.0), 0.9, RANKING) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(temperature, bad):
    row = np.array([1, bad, 0], np.float32)
    with pytest.raises(GemletError, match="not finite"):
        choose(row, replace(NEUTRAL, temperature=temperature), 0.5, RANKING)


@pytest.mark.filterwarnings("error")
def test_extreme_temperatures_do_not_overflow():
    row = np.array([-3e38, 3e38, 1], np.float32)
    assert choose(row, replace(NEUTRAL, temperature=1e-300), 0.5, RANKING) == 1
    assert choose(row, replace(NEUTRAL, temperature=1e-300, top_p=0.5, top_k=0), 0.5, RANKING) == 1
    long = np.arange(2000, dtype=np.float32)  # longer than REACH: the rest of the vocabulary is summed
    for temperature in (5e-324, 1e-46, 1e-30):
        assert choose(long, replace(NEUTRAL, temperature=temperature), 0.999, RANKING) == 1999
    flat = {choose(row[1:] * 0, replace(NEUTRAL, temperature=1e300), u, RANKING) for u in (0.1, 0.9)}
    assert flat == {0, 1}


def sampler(prompt=(), **given):
    return Sampler(Sampling(temperature=0.0, **given), seed=1, choice=0, prompt_ids=prompt, ranking=RANKING)


def test_repetition_penalty_counts_prompt_and_answer_once_each():
    chooser = sampler(prompt=[0, 0, 1], repetition_penalty=2.0)
    row = np.array([4, -1, 2.5, 1.9], np.float32)
    assert chooser.choose(row, 3) == 2  # 4 / 2 < 2.5; -1 * 2
    assert chooser.choose(row, 4) == 0  # 2.5 / 2 < 2, the prompt's doubled id counts once
    assert np.array_equal(row, np.array([4, -1, 2.5, 1.9], np.float32))


def test_presence_and_frequency_penalties_count_the_answer_only():
    row = np.array([2.0, 1.6, 0.0], np.float32)
    chooser = sampler(prompt=[0, 0, 0], frequency_penalty=0.5)
    assert [chooser.choose(row, i) for i in range(4)] == [0, 1, 0, 1]
    # after one: 1.5 / 1.6, then 1.5 / 1.1, then 1.0 / 1.1
    chooser = sampler(prompt=[0], presence_penalty=0.5)
    assert [chooser.choose(row, i) for i in range(3)] == [0, 1, 0]
    # both lowered once, and not further


def test_logit_bias_bans_and_forces():
    row = np.array([5, 4, 3], np.float32)
    assert sampler(logit_bias={0: -100}).choose(row, 0) == 1
    assert sampler(logit_bias={2: 2.5}).choose(row, 0) == 2


def test_uniform_is_a_counter():
    assert uniform(7, 0, 10) == uniform(7, 0, 10)
    numbers = [uniform(s, c, p) for s in (-3, 0, 2**63 - 1) for c in (0, 1) for p in range(500)]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) >= 0 and max(numbers) < 1
    # mean of 3000 uniforms: 1/2, standard deviation 1/sqrt(12 n); five of them
    assert abs(np.mean(numbers) - 0.5) < 5 / math.sqrt(12 * len(numbers))


def test_seed_is_drawn_and_checked():
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= s < 2**53 for s in seeds)
    assert check_seed(-(2**63)) == -(2**63)
    for wrong in (True, 1.0, "1", 2**63, -(2**63) - 1):
        with pytest.raises(InvalidRequestError, match="seed"):
            check_seed(wrong)


def test_logprob_is_the_log_softmax():
    row = np.array([1, 3, 3, 2], np.float32)
    expected = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    value, top = logprob(row, 3, 3, RANKING)
    assert value == pytest.approx(expected[3], abs=1e-12)
    assert [i for i, _ in top] == [1, 2, 3]
    assert [v for _, v in top] == pytest.approx(expected[[1, 2, 3]], abs=1e-12)
    assert logprob(row, 0, 0, RANKING)[1] == ()


def test_merge_puts_given_over_defaults_and_none_is_not_given():
    defaults = Sampling(temperature=1.0, top_k=64, top_p=0.95)
    merged = merge_sampling(defaults, {"top_k": 5, "temperature": None, "logit_bias": {3: 1}}, 10)
    assert merged == Sampling(temperature=1.0, top_k=5, top_p=0.95, logit_bias={3: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"),
        ("temperature", True), pytest.param("temperature", 10**400, id="huge"), ("top_k", -1),
        ("top_k", 2.0), ("top_k", False), ("top_p", 1.1),
        ("top_p", -1), ("top_p", math.nan), ("min_p", 2), ("min_p", [0]), ("repetition_penalty", 0),
        ("repetition_penalty", -1), ("repetition_penalty", 1e-300), ("repetition_penalty", 1e300),
        ("presence_penalty", 2.5), ("frequency_penalty", -2.5),
        ("logit_bias", {10: 1}), ("logit_bias", {-1: 1}), ("logit_bias", {"1": 1}),
        ("logit_bias", {1: math.nan}), ("logit_bias", {1: 101}), ("logit_bias", [1]),
    ],
)  # fmt: skip
def test_bad_values_are_named(name, value):
    with pytest.raises(InvalidRequestError, match=name):
        merge_sampling(Sampling(), {name: value}, 10)


def test_unknown_names_are_refused():
    with pytest.raises(UnsupportedParameterError, match="'typical_p'") as caught:
        merge_sampling(Sampling(), {"typical_p": 0.5}, 10)
    assert caught.value.parameter == "typical_p"
