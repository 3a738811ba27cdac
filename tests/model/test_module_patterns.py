"""Patterns over module names: what `re` says, in bounded time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlet.model.module_patterns import MOST_CHARACTERS, PatternError, Patterns

ATOMS = ["a", "b", "_", "1", r"\.", ".", "[ab]", "[^a]", r"\d", r"\w", r"\b", "[a-b1]", "^", "$"]
ATOMS += [r"\W", r"[\d_]", "[]a]", "[a-]", r"\-"]
REPEATS = ["*", "+", "?", "{2}", "{1,}", "{,2}", "{1,3}", "*?", "??", "{0,2}?"]


def longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map("".join),
        pairs.map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(REPEATS)).map(lambda pair: f"({pair[0]}){pair[1]}"),
    )


@settings(max_examples=1500)
@given(st.recursive(st.sampled_from(ATOMS), longer, max_leaves=8), st.text("ab.1_-", max_size=7))
def test_it_is_what_re_says(pattern: str, name: str) -> None:
    assert Patterns().fits(pattern, name) == bool(re.fullmatch(pattern, name))


@settings(max_examples=500)
@given(st.recursive(st.sampled_from(ATOMS[:9]), longer, max_leaves=6), st.text("ab.1_", max_size=9))
def test_ends_are_what_peft_looks_for(pattern: str, name: str) -> None:
    assert Patterns().fits_end(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name))


UNSUPPORTED = ["(", ")", "a)", "[", "[a", "[^", "*", "a**", "a{3}{2}", "a*+", "(?=a)", "(?P<n>a)", "(?i)a"]
UNSUPPORTED += ["a{", "a{}", "a{x}", "a{2,1}", "a{999}", "[b-a]", "[[:alpha:]]", "(" * 40 + "a" + ")" * 40]
UNSUPPORTED += [r"(a)\1", r"\Z", r"\B", r"[a-\d]", "\\", "a" * (MOST_CHARACTERS + 1)]


@pytest.mark.parametrize("pattern", UNSUPPORTED)
def test_what_is_not_supported_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Patterns().fits(pattern, "aaa")


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a|aa)+b", ".*.*.*.*.*.*.*.*b", "((a?){99}){99}b"])
def test_what_makes_re_search_for_ever_is_quick(pattern: str) -> None:
    started = time.process_time()
    assert not Patterns().fits(pattern, "a" * 60)
    assert time.process_time() - started < 1  # `re` takes longer than the universe is old


def test_work_without_end_is_refused() -> None:
    patterns, long = Patterns(), "(?:.*.*.*.*)*" * 70 + "b"
    with pytest.raises(PatternError, match="too long"):
        for number in range(10_000):
            patterns.fits(long, f"a.{number}" * 10)
