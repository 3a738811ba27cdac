"""The parts of a report's page that show an evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gemlet.tune.markup import Markup, joined, tag, text
from gemlet.tune.report_charts import Interval, heat_map, interval_bars, short
from gemlet.tune.report_values import at, number

_MOST_TEXT = 4000
_TOP = 20
_MOST_LAYERS = 512

Shown = Callable[[float], str]


def interval(document: Any, *names: str) -> Interval:
    """Estimate and ends, those that are known."""
    found = at(document, *names)
    return number(found, "estimate"), number(found, "low"), number(found, "high")


def tiles(document: Mapping[str, Any]) -> Markup:
    """What a glance should catch."""
    evaluation, run = document["evaluation"], document["run"]
    found = []
    before, after = (
        number(evaluation, "loss", f"perplexity_{side}", "estimate") for side in ("before", "after")
    )
    if before is not None and after is not None:
        found.append(("perplexity, held out", f"{before:.3g} → {after:.3g}", _word_of_loss(evaluation)))
    for name, path in (("exact answers", ("answers", "exact")), ("preferences", ("preferences",))):
        shares = [number(evaluation, *path, side, "estimate") for side in ("before", "after")]
        if shares[0] is not None and shares[1] is not None:
            shown = f"{100 * shares[0]:.0f} → {100 * shares[1]:.0f} %"
            found.append((name, shown, _word(interval(evaluation, *path, "difference"), True)))
    ratio = interval(evaluation, "text", "perplexity_ratio")
    if ratio[0] is not None:
        change = _shifted(ratio, -1)
        found.append(("perplexity, general", f"{100 * (ratio[0] - 1):+.1f} %", _word(change, False)))
    kl = number(evaluation, "text", "kl", "estimate")
    if kl is not None:
        found.append(("KL from the base", f"{kl:.3g} nats", ""))
    seconds = number(run, "result", "wall_seconds") or number(run, "result", "seconds")
    if seconds:
        found.append(("trained in", _minutes(seconds), ""))
    memory = number(run, "result", "peak_memory_bytes")
    if memory:
        found.append(("peak memory", f"{memory / 1e9:.1f} GB", ""))
    parts = [
        tag("div", tag("dt", name), tag("dd", value), class_=f"tile {look}".strip())
        for name, value, look in found
    ]
    return tag("dl", *parts, class_="tiles") if parts else Markup("")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def scores(evaluation: Mapping[str, Any] | None) -> Markup:
    """Each measure before and after, with its interval as a bar, and the difference in words."""
    if evaluation is None:
        return Markup("")
    split = evaluation.get("split") or "held-out"
    inside = [
        _loss_row(evaluation),
        _share_row("exact answers", at(evaluation, "answers", "exact")),
        _share_row("the same, normalised", at(evaluation, "answers", "normalised")),
        _share_row("preferences kept", at(evaluation, "preferences")),
    ]
    outside = [
        _text_row(at(evaluation, "text")),
        _share_row("general questions", at(evaluation, "questions")),
    ]
    parts = [
        _table(f"In the domain ({split} split)", inside),
        _table("Outside of it", outside),
        _distance(at(evaluation, "text")),
    ]
    said = (
        "Bars are 95 % intervals: above before training, below after it. A difference whose interval holds "
        "zero is a tie. The general set is the same in every report."
    )
    return joined(*parts, tag("p", said, class_="said")) if any(parts) else Markup("")


def _table(title: str, rows: list[Markup | None]) -> Markup:
    lines = [row for row in rows if row is not None]
    if not lines:
        return Markup("")
    names = (title, "before", "after", "", "difference", "items")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    return tag("div", tag("table", head, tag("tbody", *lines)), class_="wide scores")


def _row(
    name: str,
    sides: tuple[Interval, Interval],
    shown: Shown,
    ends: tuple[float, float],
    cells: tuple[Any, ...],
) -> Markup:
    before, after = sides
    look, difference, used = cells
    bars = interval_bars([("before", before), ("after " + look, after)], *ends)
    chip = tag("span", _WORDS.get(look, ""), class_=f"chip {look}")
    values = [tag("td", _value(side, shown), class_="value") for side in sides]
    where = tag("td", difference, " ", chip)
    return tag("tr", tag("th", name, scope="row"), *values, tag("td", bars), where, tag("td", used))


_WORDS = {"better": "better", "worse": "worse", "tie": "tie", "same": "no change"}


def _value(side: Interval, shown: Shown) -> Markup:
    estimate, low, high = side
    if estimate is None:
        return Markup("—")
    ends = "" if low is None or high is None else f"{shown(low)} to {shown(high)}"
    return joined(tag("b", shown(estimate)), tag("small", ends))


def _share_row(name: str, found: Any) -> Markup | None:
    before, after = interval(found, "before"), interval(found, "after")
    if before[0] is None or after[0] is None:
        return None
    difference = interval(found, "difference")
    points = _said(difference, lambda x: f"{100 * x:+.1f}", " points", found)
    look = _word(difference, True, number(found, "p"))
    return _row(name, (before, after), lambda x: f"{100 * x:.1f} %", (0, 1), (look, points, _used(found)))


def _loss_row(evaluation: Mapping[str, Any]) -> Markup | None:
    loss = at(evaluation, "loss")
    sides = interval(loss, "before"), interval(loss, "after")
    if sides[0][0] is None or sides[1][0] is None:
        return None
    said = _said(interval(loss, "difference"), lambda x: f"{x:+.3f}", " nats", loss)
    cells = (_word_of_loss(evaluation), said, _used(loss))
    return _row("loss a token", sides, lambda x: f"{x:.3f}", _around(sides), cells)


def _text_row(found: Any) -> Markup | None:
    sides = interval(found, "perplexity_source"), interval(found, "perplexity")
    if sides[0][0] is None or sides[1][0] is None:
        return None
    ratio = _shifted(interval(found, "perplexity_ratio"), -1)
    said = _said(ratio, lambda x: f"{100 * x:+.1f}", " %", None)
    cells = (_word(ratio, False), said, _used(found))
    return _row("perplexity of texts", sides, lambda x: f"{x:.3g}", _around(sides), cells)


def _distance(found: Any) -> Markup | None:
    kl, top1 = interval(found, "kl"), interval(found, "top1")
    if kl[0] is None:
        return None
    parts = [tag("b", f"{kl[0]:.4f} nats"), f" KL from the base's distributions{_ends(kl, '.4f')}"]
    if top1[0] is not None:
        ends = _ends(_times(top1, 100), ".1f")
        parts += ["; the same first choice at ", tag("b", f"{100 * top1[0]:.1f} %"), f" of tokens{ends}"]
    return tag("p", *parts, class_="distance")


def _ends(found: Interval, form: str) -> str:
    _, low, high = found
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


def _said(difference: Interval, shown: Shown, unit: str, found: Any) -> str:
    estimate, low, high = difference
    if estimate is None:
        return ""
    ends = "" if low is None or high is None else f" ({shown(low)} to {shown(high)})"
    p = number(found, "p")
    return f"{shown(estimate)}{unit}{ends}" + ("" if p is None else f", p = {p:.2g}")


def _used(found: Any) -> str:
    n, of = number(found, "n"), number(found, "of")
    return "" if n is None else f"{n:.0f}" if of in (None, n) else f"{n:.0f} of {of:.0f}"


def _around(sides: tuple[Interval, Interval]) -> tuple[float, float]:
    ends = [end for side in sides for end in side if end is not None]
    room = 0.1 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _shifted(found: Interval, by: float) -> Interval:
    estimate, low, high = (None if value is None else value + by for value in found)
    return estimate, low, high


def _times(found: Interval, factor: float) -> Interval:
    estimate, low, high = (None if value is None else value * factor for value in found)
    return estimate, low, high


def _word_of_loss(evaluation: Mapping[str, Any] | None) -> str:
    return _word(interval(evaluation, "loss", "difference"), False, number(evaluation, "loss", "p"))


def _word(difference: Interval, rising_is_better: bool, p: float | None = None) -> str:
    """As the verdict judges: an interval without zero, and a paired test below 0.05 where there is one."""
    _, low, high = difference
    if low is None or high is None:
        return "tie"
    if low == high == 0:
        return "same"
    if low <= 0 <= high or (p is not None and p >= 0.05):
        return "tie"
    return "better" if (low > 0) == rising_is_better else "worse"


# --- Samples


def samples(evaluation: Mapping[str, Any] | None) -> Markup:
    """The same prompts answered before and after, beside the reference."""
    found = at(evaluation, "samples")
    cards = (
        [_card(sample) for sample in found[:40] if isinstance(sample, Mapping)]
        if isinstance(found, list)
        else []
    )
    return tag("div", *cards, class_="samples") if cards else Markup("")


def _card(sample: Mapping[str, Any]) -> Markup:
    columns = [_answer(name, sample, key) for name, key in (("before", "before"), ("after", "after"))]
    return tag(
        "article",
        tag("p", str(sample.get("source") or ""), class_="source"),
        _quoted(sample.get("prompt"), "prompt"),
        tag(
            "div",
            *columns,
            tag("div", tag("h3", "reference"), _quoted(sample.get("reference"))),
            class_="three",
        ),
    )


def _answer(name: str, sample: Mapping[str, Any], key: str) -> Markup:
    right = sample.get(f"{key}_right") is True
    return tag(
        "div",
        tag("h3", name, tag("span", "right" if right else "", class_="chip better") if right else None),
        _quoted(sample.get(key)),
        class_="right" if right else None,
    )


def _quoted(value: Any, class_: str | None = None) -> Markup:
    """Text from data or a model, as it is: its own direction, its own spaces."""
    whole = value if isinstance(value, str) else ""
    shown = whole if len(whole) <= _MOST_TEXT else whole[:_MOST_TEXT] + f" … ({len(whole)} characters)"
    return tag("pre", text(shown) if shown else tag("i", "empty"), dir="auto", class_=class_)


# --- What moved


def moved(evaluation: Mapping[str, Any] | None) -> Markup:
    """A field for each layer's matrix, and the parameters that moved most."""
    listed = at(evaluation, "moved")
    rows = [
        (str(row.get("name")), relative)
        for row in (listed if isinstance(listed, list) else [])
        if (relative := number(row, "relative")) is not None
    ]
    if not rows:
        return Markup("")
    values, kinds = {}, dict[str, None]()
    for name, relative in rows:
        match = re.fullmatch(r"blk\.(\d{1,4})\.(\w{1,40})", name)
        if match and int(match[1]) < _MOST_LAYERS:
            values[match[2], int(match[1])] = relative
            kinds[match[2]] = None
    layers = 1 + max((layer for _, layer in values), default=-1)
    order = [kind for kind in _ORDER if kind in kinds] + sorted(kind for kind in kinds if kind not in _ORDER)
    picture = tag("div", heat_map(values, order, layers), class_="wide") if values else None
    most = max(relative for _, relative in rows) or 1.0
    bars = [
        tag(
            "li",
            tag("span", name),
            tag("i", style=f"width: {100 * relative / most:.1f}%"),
            tag("b", f"{short(100 * relative)} %"),
        )
        for name, relative in rows[:_TOP]
    ]
    said = "What training added to a matrix, next to the matrix itself (Frobenius norms). Darker moved more."
    return joined(tag("p", said, class_="said"), picture, tag("ol", *bars, class_="most"))


_ORDER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
