"""Truncation, and requests without prefixes or drafts: what is left out is said, and no bit changes."""

from __future__ import annotations

import pytest

from gemlet.errors import ContextLengthError, InvalidRequestError
from gemlet.infer.scheduler import Limits
from gemlet.infer.speculate import AdaptiveSpeculator
from tests.infer.fake_model import CONTEXT, fake_model

LONG = "The area of a wide room. " * 40


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def exchange(text: str) -> list[dict[str, str]]:
    return [said("user", text), said("assistant", "yes")]


SYSTEM = said("system", "Be brief.")
LAST = said("user", "area?")


def test_the_oldest_exchanges_are_left_out_and_no_more() -> None:
    messages = [SYSTEM, *[one for i in range(40) for one in exchange(f"{i} area of a room")], LAST]
    with fake_model() as model:
        with pytest.raises(ContextLengthError):
            model.chat(messages, max_tokens=8)
        done = model.chat(messages, max_tokens=8, seed=1, truncation="auto")
        (line,) = done.normalisations
        first, last = (int(part.partition("]")[0]) for part in line.split("messages[")[1:])
        assert first == 1 and messages[last + 1]["role"] == "user"
        kept = [SYSTEM, *messages[last + 1 :]]
        assert model.chat(kept, max_tokens=8, seed=1).token_ids == done.token_ids
        assert len(model.render(kept)) + 8 <= CONTEXT
        assert len(model.render([SYSTEM, *messages[last - 1 :]])) + 8 > CONTEXT
        whole = model.chat([SYSTEM, LAST], max_tokens=8, seed=1)
        same = model.chat([SYSTEM, LAST], max_tokens=8, seed=1, truncation="auto")
        assert same.token_ids == whole.token_ids and same.normalisations == ()


def test_room_is_left_for_an_answer_without_a_limit() -> None:
    messages = [one for i in range(60) for one in exchange(f"{i} area of a room")] + [LAST]
    with fake_model() as model:
        done = model.chat(messages, seed=1, truncation="auto", ignore_eos=True)
        assert len(done.token_ids) >= CONTEXT // 4


def test_the_last_message_is_never_cut() -> None:
    with fake_model() as model:
        for messages in ([said("user", LONG * 9)], [*exchange("x"), said("user", LONG * 9)]):
            with pytest.raises(ContextLengthError):
                model.chat(messages, max_tokens=8, truncation="auto")


def test_a_prompt_loses_its_first_tokens() -> None:
    with fake_model() as model:
        ids = model.tokenize(LONG * 9)
        done = model.generate(LONG * 9, max_tokens=8, seed=1, truncation="auto")
        kept = [ids[0], *ids[-(CONTEXT - 9) :]]
        assert model.generate(kept, max_tokens=8, seed=1).token_ids == done.token_ids
        assert str(len(ids) - (CONTEXT - 8)) in done.normalisations[0]
        assert model.generate(ids[:50], max_tokens=8, seed=1, truncation="auto").normalisations == ()
        with pytest.raises(ContextLengthError):
            model.generate(ids, max_tokens=CONTEXT, truncation="auto")


@pytest.mark.parametrize("option", [{"truncation": "left"}, {"cache": "no"}, {"draft": 1}])
def test_wrong_values_are_named(option: dict) -> None:
    with fake_model() as model, pytest.raises(InvalidRequestError, match=next(iter(option))):
        model.generate("x", **option)


def test_without_prefixes_nothing_is_taken_or_kept() -> None:
    with fake_model() as model:
        ids = model.tokenize(LONG)[:300]
        first = model.generate(ids, max_tokens=8, seed=1, cache=False)
        second = model.generate(ids, max_tokens=8, seed=1)
        assert second.usage.cached_tokens == 0  # the first has kept nothing
        third = model.generate(ids, max_tokens=8, seed=1, cache=False)
        assert third.usage.cached_tokens == 0 and "no prefix reuse" in (third.timings.cache_miss_reason or "")
        assert model.generate(ids, max_tokens=8, seed=1).usage.cached_tokens > 0
        assert first.token_ids == second.token_ids == third.token_ids


def test_who_wants_no_prefix_is_not_waited_for() -> None:
    with fake_model(limits=Limits(32, sequences=8)) as model:
        ids = model.tokenize(LONG)[:300]
        streams = [
            model.generate(ids, max_tokens=8, seed=1, cache=cache, stream=True) for cache in (False, True)
        ]
        for stream in streams:
            list(stream)
        assert [stream.completions[0].usage.cached_tokens for stream in streams] == [0, 0]


def test_without_drafts_the_answer_is_the_same() -> None:
    with fake_model(speculator=AdaptiveSpeculator(None)) as model:
        ids = [2, *[300, 301, 302, 303] * 40]
        asked = {"max_tokens": 60, "seed": 1, "temperature": 0.0, "ignore_eos": True}
        plain = model.generate(ids, **asked, draft=False)
        assert plain.timings.draft_acceptance is None
        assert model.generate(ids, **asked).token_ids == plain.token_ids
