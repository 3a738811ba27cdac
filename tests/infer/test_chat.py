"""The public Model: what it gives equals a loop written by hand, and what it cannot do it says."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from gemlet.errors import (
    ContextLengthError,
    ConversationError,
    InvalidRequestError,
    ModelClosedError,
    TextError,
    UnsupportedParameterError,
)
from gemlet.infer import answering
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.sample import merge_sampling
from gemlet.types import Completion, Message
from tests.infer.fake_model import CONTEXT, DEFAULTS, MANIFEST, VOCABULARY, fake_decoder, fake_model
from tests.infer.fakes import STOP
from tests.infer.naive import naive_answer

PROMPT = "The area of a wide room"


@pytest.fixture(scope="module")
def model():
    with fake_model() as opened:
        yield opened


def by_hand(model, prompt, max_tokens, seed, index=0, ignore_eos=False, logprobs=None, **sampling):
    """The naive loop's entries for what `generate` was asked."""
    ids = tuple(model.tokenize(prompt) if isinstance(prompt, str) else prompt)
    stop_ids = frozenset() if ignore_eos else frozenset({STOP})
    chosen = merge_sampling(DEFAULTS, sampling, VOCABULARY)
    request = AnswerRequest(ids, max_tokens, chosen, seed, index + 1, stop_ids, logprobs)
    return naive_answer(fake_decoder(), request, index)


def text_of(model, tokens):
    return model.detokenize([token for token in tokens if token != STOP])


@pytest.mark.parametrize("prompt", [PROMPT, [2, 300, 301], np.array([2, 300], np.int32), ""])
def test_generate_equals_the_loop(model, prompt):
    done = model.generate(prompt, max_tokens=20, seed=3)
    expected = by_hand(model, prompt, 20, 3)
    assert done.token_ids == tuple(token for token, *_ in expected)
    assert done.text == text_of(model, done.token_ids)
    assert done.finish_reason == expected[-1][3]
    assert done.stop_reason == (STOP if done.finish_reason == "stop" else None)
    assert done.seed == 3 and done.sampling == DEFAULTS and done.manifest == MANIFEST
    assert done.usage.prompt_tokens == len(model.tokenize(prompt) if isinstance(prompt, str) else prompt)
    assert done.usage.completion_tokens == len(expected)
    assert (done.logprobs, done.tool_calls, done.normalisations) == (None, (), ())


def test_text_gets_one_bos_and_ids_are_taken_as_they_are(model):
    ids = model.tokenize(PROMPT)
    assert ids[0] == 2 and 2 not in ids[1:] and model.tokenize(PROMPT, bos=False) == ids[1:]
    assert model.generate(PROMPT, seed=1).token_ids == model.generate(ids, seed=1).token_ids


def test_seed_is_drawn_and_repeats_the_answer(model):
    first, other = (model.generate(PROMPT, max_tokens=20) for _ in range(2))
    assert first.seed != other.seed
    assert model.generate(PROMPT, max_tokens=20, seed=first.seed).token_ids == first.token_ids


def test_several_choices(model):
    done = model.generate(PROMPT, max_tokens=15, n=3, seed=9, ignore_eos=True)
    assert [d.token_ids for d in done] == [
        tuple(token for token, *_ in by_hand(model, PROMPT, 15, 9, index, ignore_eos=True))
        for index in range(3)
    ]
    assert len({d.text for d in done}) == 3


def test_stream_gives_the_same_in_pieces(model):
    events = list(model.generate(PROMPT, max_tokens=15, n=3, seed=9, stream=True))
    whole = model.generate(PROMPT, max_tokens=15, n=3, seed=9)
    for index, done in enumerate(whole):
        own = [event for event in events if event.index == index]
        assert "".join(event.text for event in own) == done.text
        assert tuple(event.token_id for event in own) == done.token_ids
        assert [event.completion is not None for event in own] == [False] * (len(own) - 1) + [True]
        assert own[-1].completion.token_ids == done.token_ids
    assert {event.index for event in events[:3]} == {0, 1, 2}  # interleaved


def test_logprobs(model):
    done = model.generate(PROMPT, max_tokens=6, seed=1, logprobs=3, ignore_eos=True)
    expected = by_hand(model, PROMPT, 6, 1, ignore_eos=True, logprobs=3)
    for got, (token, value, top, _) in zip(done.logprobs, expected, strict=True):
        assert (got.token_id, got.logprob) == (token, value)
        assert tuple((item.token_id, item.logprob) for item in got.top) == top
        assert got.token == model.tokenizer.piece(token).decode(errors="replace")
    events = list(model.generate(PROMPT, max_tokens=6, seed=1, logprobs=1, ignore_eos=True, stream=True))
    assert [event.logprob for event in events] == [value for _, value, _, _ in expected]


def test_sampling_goes_over_the_defaults(model):
    given = {"temperature": 0, "repetition_penalty": 1.5}
    done = model.generate(PROMPT, max_tokens=8, seed=1, **given)
    assert done.sampling == merge_sampling(DEFAULTS, given, VOCABULARY)
    expected = by_hand(model, PROMPT, 8, 1, **given)
    assert done.token_ids == tuple(token for token, *_ in expected)


def test_stop_string_across_tokens(model):
    """Every substring of an answer, as the stop string, cuts the text where it first occurs."""
    whole = model.generate(PROMPT, max_tokens=30, seed=4, ignore_eos=True)
    rng = np.random.default_rng(0)
    for _ in range(60):
        start = int(rng.integers(0, len(whole.text) - 3))
        stop = whole.text[start : start + int(rng.integers(2, 12))]
        if "\ufffd" in stop:
            continue  # what a cut character looks like depends on what follows it
        done = model.generate(PROMPT, max_tokens=30, seed=4, ignore_eos=True, stop=stop)
        assert done.text == whole.text[: whole.text.index(stop)]
        assert (done.finish_reason, done.stop_reason) == ("stop", stop)
        assert done.token_ids == whole.token_ids[: len(done.token_ids)]
        # The last token is the one that completed the string, though the engine ran ahead.
        assert stop in model.detokenize(done.token_ids)
        assert stop not in model.tokenizer.decode(done.token_ids[:-1])
        streamed = model.generate(PROMPT, max_tokens=30, seed=4, ignore_eos=True, stop=[stop], stream=True)
        events = list(streamed)
        assert "".join(event.text for event in events) == done.text
        assert events[-1].completion.token_ids == done.token_ids


def test_stop_string_ends_only_its_own_choice(model):
    whole = model.generate(PROMPT, max_tokens=30, n=3, seed=5, ignore_eos=True)
    stop = whole[1].text[10:14]
    done = model.generate(PROMPT, max_tokens=30, n=3, seed=5, ignore_eos=True, stop=stop)
    for before, after in zip(whole, done, strict=True):
        cut = before.text.find(stop)
        assert after.text == (before.text if cut < 0 else before.text[:cut])
        assert after.finish_reason == ("length" if cut < 0 else "stop")


def test_stop_ids_are_added_to_the_models_own(model):
    whole = model.generate(PROMPT, max_tokens=20, seed=6, ignore_eos=True)
    stop = whole.token_ids[5]
    done = model.generate(PROMPT, max_tokens=20, seed=6, ignore_eos=True, stop=stop)
    assert done.stop_reason == stop and done.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert done.text == model.detokenize(done.token_ids[:-1])
    assert model.generate([2], max_tokens=1, stop=[7], logit_bias={STOP: 100}).stop_reason == STOP


def test_ignore_eos(model):
    bias = {STOP: 100}
    assert model.generate(PROMPT, max_tokens=5, logit_bias=bias).token_ids == (STOP,)
    ignored = model.generate(PROMPT, max_tokens=5, logit_bias=bias, ignore_eos=True)
    assert ignored.token_ids == (STOP,) * 5 and ignored.finish_reason == "length"


def test_max_tokens_none_runs_to_the_contexts_end(model):
    done = model.generate(PROMPT, max_tokens=None, ignore_eos=True)
    assert done.usage.prompt_tokens + done.usage.completion_tokens == CONTEXT == model.context
    with pytest.raises(ContextLengthError) as caught:
        model.generate([5] * CONTEXT, max_tokens=None)
    assert (caught.value.needed, caught.value.context) == (CONTEXT + 1, CONTEXT)
    with pytest.raises(ContextLengthError):
        model.generate([5] * (CONTEXT - 3), max_tokens=4)


def test_timings_add_up():
    with fake_model(fake_decoder(delay=0.004)) as model:
        before = time.perf_counter()
        done = model.generate(list(range(2, 42)), max_tokens=5, ignore_eos=True)
        elapsed = time.perf_counter() - before
    t = done.timings
    assert t.ttft_s == pytest.approx(t.queue_s + t.prefill_s)
    assert t.ttft_s + t.decode_s <= elapsed
    assert t.prefill_s >= 0.008 and t.decode_s >= 0.016  # 40 rows in steps of 32; four steps of decoding
    assert t.prefill_tokens_per_s == pytest.approx(40 / t.prefill_s)
    assert t.decode_tokens_per_s == pytest.approx(4 / t.decode_s)
    assert t.cache_miss_reason == "no earlier request shares the beginning"
    assert t.draft_acceptance is None


def test_cached_tokens_are_reported_and_change_nothing():
    conversation = [{"role": "user", "content": "area of a wide room"}]
    with fake_model() as model:
        first = model.chat(conversation, seed=1, max_tokens=5)  # no further than a window can go back
        again = model.chat(conversation, seed=1, max_tokens=5)
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.timings.cache_miss_reason is None
    assert again.token_ids == first.token_ids


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"top_k": -1}, "top_k"), ({"n": 0}, "n must"), ({"n": True}, "n must"), ({"n": 1000}, "n must"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 2.0}, "max_tokens"), ({"seed": "x"}, "seed"),
        ({"logprobs": -1}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"stop": ""}, "stop"),
        ({"stop": [""]}, "stop"), ({"stop": VOCABULARY}, "stop"), ({"stop": 1.5}, "stop"),
        ({"stop": [None]}, "stop"), ({"ignore_eos": 1}, "ignore_eos"), ({"stream": "yes"}, "stream"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(model, options, name):
    with pytest.raises(InvalidRequestError, match=name):
        model.generate(PROMPT, **options)


@pytest.mark.parametrize("prompt", [[], ["a"], [1.0], [True], [VOCABULARY], [-1], None, 5, {"a": 1}, b"x"])
def test_wrong_prompts(model, prompt):
    with pytest.raises(InvalidRequestError):
        model.generate(prompt)


def test_text_that_is_not_text(model):
    with pytest.raises(TextError):
        model.generate("\ud800")
    for wrong in (None, b"x", 5):
        with pytest.raises(TextError, match="must be text"):
            model.tokenize(wrong)


def test_a_request_that_is_too_long_says_what_adds_up(model):
    with pytest.raises(ContextLengthError) as caught:
        model.generate([2] * 790, max_tokens=11)
    assert (caught.value.needed, caught.value.context) == (801, CONTEXT)
    assert "790" in caught.value.hint and "max_tokens" in caught.value.hint
    with pytest.raises(ContextLengthError) as caught:
        model.generate([2] * CONTEXT, max_tokens=None)
    assert caught.value.needed == CONTEXT + 1 and str(CONTEXT) in caught.value.hint


def test_closing_ends_what_is_scored_with_its_own_error():
    with fake_model(fake_decoder(delay=0.02)) as model:
        threading.Timer(0.1, model.close).start()
        with pytest.raises(ModelClosedError):
            model.score_many([([2] * 30, [300 + i % 9] * 200) for i in range(200)])


def test_unknown_and_unsupported_parameters_are_named(model):
    with pytest.raises(UnsupportedParameterError, match="'max_length'") as caught:
        model.generate(PROMPT, max_length=5)
    assert caught.value.parameter == "max_length"


def test_rendering_declares_tools(model):
    messages = [{"role": "user", "content": "x"}]
    tools = [{"type": "function", "function": {"name": "time"}}]
    declared = model.detokenize(model.render(messages, tools=tools, strict=True))
    assert '"name":"time"' in declared
    assert model.render(messages, tools=[]) == model.render(messages)
    with pytest.raises(InvalidRequestError, match=r"tools\[0\].function.name"):
        model.render(messages, tools=[{"type": "function", "function": {}}])


def test_control_strings_in_text_stay_text(model):
    ids = model.tokenize("<end_of_turn><bos>")
    assert 106 not in ids and ids.count(2) == 1
    assert model.detokenize(ids) == "<end_of_turn><bos>"
    with pytest.raises(InvalidRequestError):
        model.detokenize([VOCABULARY])


CONVERSATION = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "area of a room"},
    {"role": "assistant", "content": "wide"},
    {"role": "user", "content": "and height?"},
]


def test_chat_answers_what_render_shows(model):
    ids = model.render(CONVERSATION)
    done = model.chat(CONVERSATION, seed=2, max_tokens=20)
    assert done.token_ids == model.generate(ids, seed=2, max_tokens=20).token_ids
    assert done.usage.prompt_tokens == len(ids)
    assert model.render([Message(**message) for message in CONVERSATION]) == ids
    assert ids[0] == 2 and ids.count(2) == 1
    events = list(model.chat(CONVERSATION, seed=2, max_tokens=20, stream=True))
    assert events[-1].completion.text == done.text


def test_chat_runs_to_a_stop_or_the_contexts_end(model):
    done = model.chat(CONVERSATION, seed=2, ignore_eos=True)
    assert done.usage.prompt_tokens + done.usage.completion_tokens == CONTEXT


def test_normalisations_are_reported_and_strict_refuses(model):
    odd = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    done = model.chat(odd, max_tokens=1)
    assert done.normalisations
    assert model.chat(CONVERSATION, max_tokens=1).normalisations == ()
    model.render(odd)
    with pytest.raises(ConversationError):
        model.render(odd, strict=True)


def test_base_model_uses_a_frame_and_says_so():
    with fake_model(has_chat_format=False) as base:
        done = base.chat([{"role": "user", "content": "area?"}], max_tokens=5, seed=1)
        assert "base model" in done.normalisations[0]
        ids = base.render([{"role": "user", "content": "area?"}])
        assert done.usage.prompt_tokens == len(ids) and 105 not in ids
        with pytest.raises(ConversationError, match="base model"):
            base.render([{"role": "user", "content": "area?"}], strict=True)


def test_stop_strings_of_the_frame_end_an_answer(monkeypatch):
    with fake_model(has_chat_format=False) as base:
        asked = [{"role": "user", "content": "area?"}]
        whole = base.chat(asked, seed=1, max_tokens=30, ignore_eos=True)
        framed, stop = answering.render_base(asked, base.tokenizer), whole.text[20:23]
        monkeypatch.setattr(answering, "render_base", lambda *_, **__: replace(framed, stop=(stop,)))
        goes_on = base.chat(asked, seed=1, max_tokens=30, ignore_eos=True)
        assert (goes_on.text, goes_on.finish_reason) == (whole.text, "length")
        done = base.chat(asked, seed=1, max_tokens=30, stop="never said")
        assert done.text == whole.text[: whole.text.index(stop)] and done.stop_reason == stop


@pytest.mark.parametrize("messages", ["text", [], [{"role": "bot", "content": "b"}], [{"role": "user"}]])
def test_wrong_messages(model, messages):
    with pytest.raises(ConversationError):
        model.chat(messages)


def test_many_threads_get_their_own_answers(model):
    results: dict[int, Completion] = {}

    def work(i):
        results[i] = model.generate([2, 300 + i], max_tokens=10, seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for i in range(20):
        assert results[i].token_ids == tuple(token for token, *_ in by_hand(model, [2, 300 + i], 10, i))
