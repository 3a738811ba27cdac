"""A plan as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]


def table(document: Document) -> list[str]:
    """What will be needed, whether it fits, how fast it will be, what it costs, and what was measured."""
    return [
        *_head(document),
        "",
        *_memory(document),
        "",
        *_speed(document),
        *_cost(document),
        *_measured(document),
    ]


def _head(document: Document) -> Iterator[str]:
    wanted, machine = document["wanted"], document["machine"]
    types = ", ".join(f"{kind} {_mb(size)}" for kind, size in document["weights"]["types"].items())
    rates, origin = machine["rates"], "described" if machine["described"] else "measured"
    yield f"model       {document['model']}: {document['parameters'] / 1e6:,.1f} M parameters, {types}"
    yield (
        f"planned     {_count(wanted['streams'], 'conversation')} of {wanted['context']} tokens: "
        f"{wanted['prompt']} of prompt, {wanted['answer']} of answer"
    )
    yield (
        f"machine     {origin}: {rates['read_bytes'] / 1e9:.1f} GB/s from memory, "
        f"{rates['byte_products'] / 1e9:.0f} G multiply-adds/s of bytes, {machine['threads']} threads, "
        f"{machine['instruction_set']}"
    )
    if machine["described"]:
        yield "            its cores count as those that were measured; ± does not cover how they differ"


_PARTS = {
    "norms": "norms",
    "head_sketch": "sketch of the head",
    "kv_local": "keys and values, local layers",
    "kv_global": "keys and values, global layers",
    "step_buffers": "values of a step",
    "logits": "logits",
    "tokenizer": "tokenizer",
    "runtime": "Python and libraries",
}


def _memory(document: Document) -> Iterator[str]:
    found, fit = document["forecast"], document["fit"]
    memory = found["memory"]
    for kind, size in memory["weights"].items():
        yield _line(f"weights, {kind}", _mb(size))
    for part, name in _PARTS.items():
        if memory[part]:
            yield _line(name, _mb(memory[part]))
    yield _line("memory in all", _mb(found["memory_bytes"]))
    yield _line("with a full cache of prompts", _mb(found["memory_with_full_prefix_cache_bytes"]))
    thumb = document["rule_of_thumb_bytes"]
    said = ", ".join(f"{_mb(low)} to {_mb(high)} at {kind}" for kind, (low, high) in thumb.items())
    yield _line("by the rule of thumb", said)
    if fit["room_bytes"] is None:
        yield "fits        unknown: the machine's memory was not given (--ram)"
    elif fit["fits"]:
        rest = "" if fit["fits_with_full_prefix_cache"] else "; its cache of prompts cannot grow to its limit"
        yield f"fits        yes: {_mb(fit['room_bytes'])} can be used{rest}"
    else:
        yield f"fits        no: {_mb(fit['room_bytes'])} can be used. What would fit:"
        yield from (_change(change) for change in fit["changes"])
        if not fit["changes"]:
            yield "              nothing: not one short conversation at int4; take a smaller model"


def _change(change: Document) -> str:
    kind = "" if change["weights"] is None else f"--weights {change['weights']} "
    flags = f"{kind}--context {change['context']} --streams {change['streams']}"
    return f"              {flags}: {_mb(change['memory_bytes'])}"


def _speed(document: Document) -> Iterator[str]:
    found = document["forecast"]
    within = found["within"]
    prompt = document["wanted"]["prompt"]
    yield _line("prompt", f"{_rate(found['prefill_tokens_per_s'])} tokens/s{_bar(within['prefill'])}")
    yield _line("first token", f"{found['ttft_s']:.2f} s after {prompt} tokens{_bar(within['prefill'])}")
    for count, rate in found["streams"].items():
        name = "answer" if count == "1" else f"answers, {count} streams"
        each = "" if count == "1" else f", {_rate(rate / int(count))} each"
        bar = _bar(within["decode" if count == "1" else "streams"])
        yield _line(name, f"{_rate(rate)} tokens/s{each}{bar}")
    a_day = (
        f"{found['requests_per_day']:,.0f} requests, {found['answer_tokens_per_day']:,.0f} tokens of answers"
    )
    yield _line("a day, always busy", a_day)


def _cost(document: Document) -> Iterator[str]:
    if "cost" not in document:
        return
    cost, own = document["cost"], document["cost"]["own"]
    unit, origin = cost["currency"], cost["machine"]["origin"]
    yield ""
    yield _line("an hour", f"{own['an_hour']:.4g} {unit} ({origin['source']}, {origin['date']})")
    yield _line("a million tokens read", f"{own['million_read']:.4g} {unit}")
    yield _line("a million tokens written", f"{own['million_written']:.4g} {unit}")
    yield _line("a request", f"{own['a_request']:.4g} {unit}")
    for hosted in cost["hosted"]:
        needed = hosted["requests_a_day"]
        said = (
            "stays cheaper than a machine that runs all day"
            if needed is None
            else f"dearer from {needed:,.0f} requests a day on"
        )
        told = (
            f"{hosted['hosted_request']:.4g} {unit} a request: {said} ({hosted['source']}, {hosted['date']})"
        )
        yield _line(hosted["name"], told)


def _measured(document: Document) -> Iterator[str]:
    if "measured" not in document:
        return
    measured, then, ratio = document["measured"], document["forecast_then"], document["ratio"]
    yield ""
    yield f"{'':32}{'forecast':>12}{'measured':>12}{'ratio':>8}"
    rows = [("memory_bytes", "memory, MB", 1e-6), ("prefill_tokens_per_s", "prompt, tokens/s", 1)]
    rows += [("ttft_s", "first token, s", 1)]
    for key, name, scale in rows:
        yield _compared(name, then[key] * scale, measured[key] * scale, ratio[key])
    for count in measured["streams"]:
        name = "answer, tokens/s" if count == "1" else f"answers, {count} streams, tokens/s"
        yield _compared(name, then["streams"][count], measured["streams"][count], ratio["streams"][count])


def _compared(name: str, forecast: float, measured: float, ratio: float) -> str:
    return f"{name:32}{_rate(forecast):>12}{_rate(measured):>12}{ratio:>8.2f}"


def _line(name: str, text: str) -> str:
    return f"{name:<32}{text}"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bar(share: float) -> str:
    return f" ± {100 * share:.0f} %"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
