"""The report as one HTML page that asks nothing of any server. Everything from data and files is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gemlet.tune.markup import Markup, joined, tag, text
from gemlet.tune.report_charts import Line, histogram, line_chart, short
from gemlet.tune.report_scores import moved, samples, scores, tiles
from gemlet.tune.report_values import at, ending, number

STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_MOST_FACTS = 150


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    title = f"Fine-tuning report: {at(document, 'run', 'base', 'reference') or 'unknown model'}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE.read_text("utf-8"))),
    )
    sections = (
        _section("Scores", scores(document["evaluation"])),
        _section("Training", _curves(document)),
        _section("Side by side", samples(document["evaluation"])),
        _section("What moved", moved(document["evaluation"])),
        _section("Data", _data(document)),
        _section("Forecast and measured", _forecast(document)),
        _section("Manifest", _manifest(document)),
    )
    body = tag("body", tag("main", _top(document), *sections))
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(title: str, content: Markup) -> Markup:
    return tag("section", tag("h2", title), content) if content else Markup("")


def _top(document: Mapping[str, Any]) -> Markup:
    verdict, run = document["verdict"], document["run"]
    facts = [
        f"{at(run, 'method') or 'training'} of {at(run, 'base', 'reference') or 'an unknown model'}",
        f"on {at(run, 'data', 'path') or 'unknown data'}",
        at(run, "started"),
    ]
    warnings = [tag("li", line) for line in document["warnings"]]
    return tag(
        "header",
        tag("p", " · ".join(str(fact) for fact in facts if fact), class_="origin"),
        tag(
            "div",
            tag("h1", verdict["headline"]),
            tag("p", _sentence(verdict["advice"])),
            class_=f"verdict {_mood(verdict)}",
        ),
        tiles(document),
        tag("ul", *warnings, class_="warnings") if warnings else None,
    )


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:] + ("" if line.endswith(("?", ".")) or not line else ".")


def _mood(verdict: Mapping[str, Any]) -> str:
    if verdict["domain"] == "worse" or verdict["forgetting"] == "severe":
        return "bad"
    if verdict["forgetting"] == "notable":
        return "mixed"
    return "good" if verdict["domain"] == "better" else "neutral"


def _curves(document: Mapping[str, Any]) -> Markup:
    steps, validation = document["steps"], document["validation"]

    def series(name: str) -> list[tuple[float, float]]:
        return [(entry["step"], entry[name]) for entry in steps if name in entry]

    held_out = [(entry["step"], entry["valid_loss"]) for entry in validation]
    mark = None
    if held_out:
        best = min(held_out, key=lambda point: point[1])
        mark = (*best, f"best: {short(best[1])} at step {best[0]}")
    raw = Line("each step", series("loss"), "faint")
    smooth = Line("smoothed", series("smoothed"), "first")
    charts = (
        line_chart("Loss", [raw, smooth, Line("validation", held_out, "second", dots=True)], mark),
        line_chart("Learning rate", [Line("", series("lr"), "first")], from_zero=True),
        line_chart("Tokens a second", [Line("", series("tokens_per_s"), "first")], from_zero=True),
        line_chart("Norm of the gradient", [Line("", series("grad_norm"), "first")], from_zero=True),
    )
    return tag("div", *charts, class_="charts") if any(charts) else Markup("")


def table(head: Iterable[object], rows: Iterable[Iterable[Any]], class_: str | None = None) -> Markup:
    """A table that scrolls by itself where the page is narrow."""
    top = tag("thead", tag("tr", *(tag("th", str(cell), scope="col") for cell in head)))
    lines = [tag("tr", *(tag("td" if i else "th", cell) for i, cell in enumerate(cells))) for cells in rows]
    return tag("div", tag("table", top, tag("tbody", *lines)), class_=f"wide {class_ or ''}".strip())


# --- Data


def _data(document: Mapping[str, Any]) -> Markup:
    report = at(document, "run", "data", "report")
    splits = at(report, "splits")
    splits = splits if isinstance(splits, Mapping) else {}
    rows = [
        (
            name,
            _count(split, "examples"),
            _count(split, "tokens"),
            _count(split, "learned"),
            _count(split, "quantiles", "0.5"),
            _count(split, "quantiles", "1.0"),
        )
        for name, split in splits.items()
    ]
    head = ("split", "examples", "tokens", "learned", "median length", "longest")
    charts = [
        histogram(_lengths(at(split, "histogram")), f"Tokens of an example: {name}")
        for name, split in splits.items()
    ]
    found = table(("in the data", "lines", "the first"), _findings(report)) if report else Markup("")
    parts = (
        table(head, rows, "numbers") if rows else None,
        tag("div", *charts, class_="charts"),
        found if rows else None,
    )
    return joined(*parts) if rows else Markup("")


def _lengths(counts: Any) -> list[tuple[str, int]]:
    if not isinstance(counts, Mapping):
        return []
    return [(f"≤{bound}", int(number(counts, bound) or 0)) for bound in list(counts)[:30]]


def _findings(report: Any) -> list[tuple[Any, ...]]:
    single = {
        "copies across splits": "duplicates_across",
        "near-copies across splits": "near_copies_across",
        "groups across splits": "groups_across",
        "cut at the length": "cut",
        "left out": "dropped",
    }
    rows = [_finding(name, at(report, key)) for name, key in single.items()]
    for name, key in (
        ("copies in", "duplicates"),
        ("secrets:", "secrets"),
        ("changed by the format:", "changed"),
    ):
        group = at(report, key)
        if isinstance(group, Mapping) and group:
            rows += [_finding(f"{name} {kind}", found) for kind, found in group.items()]
        else:
            rows.append((name.rstrip(":").removesuffix(" in"), "0", ""))
    return rows


def _finding(name: str, found: Any) -> tuple[Any, ...]:
    lines = at(found, "lines")
    shown = [str(line) for line in lines[:5]] if isinstance(lines, list) else []
    return name, f"{number(found, 'count') or 0:.0f}", ", ".join(shown)


def _count(document: Any, *names: str) -> str:
    value = number(document, *names)
    return "—" if value is None else f"{value:,.0f}"


# --- Time, memory, manifest


def _forecast(document: Mapping[str, Any]) -> Markup:
    forecast, result = at(document, "run", "forecast"), at(document, "run", "result")
    if not isinstance(forecast, Mapping):
        return Markup("")
    seconds, tokens = number(result, "seconds"), number(result, "tokens")
    rate = tokens / seconds if seconds and tokens else None
    rows = [
        ("time", number(forecast, "seconds"), number(result, "wall_seconds") or seconds, duration),
        ("tokens a second", number(forecast, "tokens_per_s"), rate, lambda x: f"{x:,.0f}"),
        ("memory", number(forecast, "memory_bytes"), number(result, "peak_memory_bytes"), size),
        ("disk", number(forecast, "disk_bytes"), number(result, "disk_bytes"), size),
    ]
    cells = [
        (
            name,
            "—" if expected is None else shown(expected),
            "—" if measured is None else shown(measured),
            f"{100 * measured / expected:.0f} %" if expected and measured is not None else "",
        )
        for name, expected, measured, shown in rows
        if expected is not None or measured is not None
    ]
    return table(("", "forecast", "measured", "of the forecast"), cells, "numbers")


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(nbytes: float) -> str:
    """Bytes for a person."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _manifest(document: Mapping[str, Any]) -> Markup:
    run = document["run"]
    groups = {
        "base": at(run, "base"),
        "data": {name: at(run, "data", name) for name in ("path", "sha256")},
        "settings": at(run, "settings"),
        "result": at(run, "result") or {"ending": ending(document) or "not finished"},
        "before": at(document, "evaluation", "before"),
        "after": at(document, "evaluation", "after"),
        "general set": {name: at(document, "evaluation", name, "sha256") for name in ("text", "questions")},
        "versions": at(run, "versions"),
        "machine": at(run, "machine"),
    }
    parts = []
    for name, values in groups.items():
        facts = list(_flat(values))[:_MOST_FACTS]
        if facts:
            listed = [joined(tag("dt", key), tag("dd", value)) for key, value in facts]
            parts.append(tag("div", tag("h3", name), tag("dl", *listed)))
    return tag("div", *parts, class_="manifest")


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Markup]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, text(", ".join(map(str, value[:40])))
    elif value is not None:
        yield name, text(short(value) if isinstance(value, float) else str(value))
