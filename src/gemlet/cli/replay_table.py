"""The result of a replay as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 18
"""Of a column of the table."""


def lines(document: Mapping[str, Any], show: int) -> Iterator[str]:
    """The first differences, the table of both sides, and what to know when reading it."""
    odd = [row for row in document["results"] if row["outcome"] != "equal"]
    for row in odd[:show]:
        yield from _difference(row)
    if len(odd) > show > 0:
        yield f"… and {len(odd) - show} more (--show N)"
    if odd and show:
        yield ""
    yield from _table(document["recorded"], document["replayed"])
    yield ""
    counts = [f"{document[name]} {name}" for name in ("equal", "different", "failed", "unfinished")]
    yield f"{document['requests']} of {document['chosen']} requests: " + ", ".join(counts)
    yield from _remarks(document)


def _difference(row: Mapping[str, Any]) -> Iterator[str]:
    place = f"{row['file'].rpartition('/')[2]}:{row['line']}"
    yield f"{place}  {_one_line(row['asked'])}"
    if row["failure"] is not None:
        yield f"  {row['failure']['kind']}: {row['failure']['message']}"
        return
    alike = "" if row["similarity"] is None else f"; the texts are {_share(row['similarity'])} alike"
    sampled = "" if row["repeatable"] else "; sampled without a seed"
    yield f"  differs in {', '.join(row['differences'])}{alike}{sampled}"
    for name, text in zip(("recorded", "replayed"), row["first_difference"] or (), strict=False):
        yield f"  {name}  {_one_line(text)}"


def _share(value: float) -> str:
    """Never 100 % for what differs."""
    return f"{min(99, int(100 * value))} %" if value < 1 else "100 %"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")[:200]


def _table(recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> Iterator[str]:
    def row(title: str, *values: str) -> str:
        return f"{title:<20}" + "".join(f"{value:>{WIDTH}}" for value in values).rstrip()

    sides = (recorded, replayed)
    yield row("", "recorded", "replayed")
    yield row("model", *(_models(side["models"]) for side in sides))
    yield row("answered", *(str(side["answers"]) for side in sides))
    yield row("refused", *(str(side["refused"]) for side in sides))
    for name, title in (("total_s", "whole answer"), ("first_token_s", "first token")):
        for share in ("p50", "p99"):
            yield row(f"{title}, {share}", *(_seconds(side[name][share]) for side in sides))
    for name, title in (("prompt_tokens", "prompt tokens"), ("completion_tokens", "answer tokens")):
        yield row(title, *(str(side[name]) if side["answers_with_token_counts"] else "-" for side in sides))
    yield row("cost", *("-" if side["cost"] is None else f"{side['cost']:.6g}" for side in sides))


def _models(names: Mapping[str, int]) -> str:
    first = next(iter(names), "-")
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    room = WIDTH - 2 - len(more)
    return (first if len(first) <= room else first[: room - 1] + "…") + more


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    if document["differences"]:
        yield "differ in: " + ", ".join(f"{name} {count}" for name, count in document["differences"].items())
    if document["failures"]:
        yield "failed by: " + ", ".join(f"{name} {count}" for name, count in document["failures"].items())
    for side in ("recorded", "replayed"):
        for one in document[side]["refusals"]:
            yield f"refused, {side}: {one['count']} with {one['status']} {one['reason'][:100]}"
        told, answers = document[side]["answers_with_token_counts"], document[side]["answers"]
        if told < answers:
            yield f"tokens and cost, {side}: of {told} of {answers} answers; the others did not tell theirs"
    if count := document["sampled_without_seed"]:
        yield f"sampled without a seed: {count}; such answers differ even with the same model"
    if document["retried"]:
        yield f"{document['retried']} sent more than once, after 429 or an error of the server"
    if document["stopped"]:
        yield f"stopped before the end: {document['stopped']}"
