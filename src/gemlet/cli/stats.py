"""The line of speeds after an answer."""

from __future__ import annotations

from gemlet.types import Completion


def stats_line(load_s: float, completions: list[Completion]) -> str:
    """Load time, prefill and decode speed of a request (all its choices), in one line."""
    first = completions[0]
    tokens = sum(done.usage.completion_tokens for done in completions)
    cached = f" ({first.usage.cached_tokens} cached)" if first.usage.cached_tokens else ""
    accepted = first.timings.draft_acceptance
    drafts = "" if accepted is None else f" ({accepted:.0%} of drafted tokens accepted)"
    return (
        f"load {load_s:.2f} s · prefill {first.usage.prompt_tokens} tokens{cached}"
        f"{_speed(first.timings.prefill_tokens_per_s)} · decode {tokens} tokens"
        f"{_speed(first.timings.decode_tokens_per_s)}{drafts} · {first.manifest.instruction_set}"
    )


def _speed(tokens_per_s: float | None) -> str:
    return "" if tokens_per_s is None else f", {tokens_per_s:.1f} tokens/s"
