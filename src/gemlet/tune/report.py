"""The report of a training run, from the files in its folder alone: report.json and report.html.

A run that was interrupted, or not evaluated, has a report too, of what there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlet.errors import GemletError
from gemlet.formats.files import read_json, replaced_file
from gemlet.tune.evaluation import EVALUATION
from gemlet.tune.report_charts import smoothed
from gemlet.tune.report_page import page
from gemlet.tune.report_values import at, ending, finite, number

RUN, LOG = "run.json", "log.jsonl"
REPORT, PAGE = "report.json", "report.html"
FORMAT = 1

_RISE = 1.02
"""Of the validation loss, over its best, from which a run went on for too long."""
_MOST_LOG_BYTES = 1 << 28


@dataclass(frozen=True)
class Written:
    """The two files, and what they say."""

    report: Path
    page: Path
    document: dict[str, Any]


def write_report(folder: Path) -> Written:
    """Write both files from what the run left. ModelFileError where there is no run, OSError where the
    report cannot be written."""
    document = collect(folder)
    with replaced_file(folder / REPORT) as file:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        file.write(text.encode("utf-8", "backslashreplace"))
    with replaced_file(folder / PAGE) as file:
        file.write(page(document).encode())
    return Written(folder / REPORT, folder / PAGE, document)


def collect(folder: Path) -> dict[str, Any]:
    """All that a report says, JSON-ready."""
    run = finite(read_json(folder / RUN))
    steps, validation, notes = read_log(folder / LOG)
    evaluation, more = _evaluation(folder)
    for entry, value in zip(steps, smoothed([entry["loss"] for entry in steps]), strict=True):
        entry["smoothed"] = value
    document = {
        "gemlet_report": FORMAT,
        "run": run,
        "steps": steps,
        "validation": validation,
        "evaluation": evaluation,
    }
    document["verdict"] = _verdict(document)
    document["warnings"] = [*notes, *more, *_warnings(document)]
    return document


def terminal_summary(document: Mapping[str, Any]) -> list[str]:
    """The report in some lines for the end of a command."""
    verdict = document["verdict"]
    lines = [f"{verdict['headline']}: {verdict['advice']}"]
    lines += [f"  in its domain   {line}" for line in verdict["gained"]]
    lines += [f"  outside of it   {line}" for line in verdict["lost"]]
    return lines + [f"  look at this    {line}" for line in document["warnings"]]


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Steps, validations, and what was wrong with the log. A line that cannot be read is left out."""
    if not path.is_file():
        return [], [], ["there is no log of the run"]
    if path.stat().st_size > _MOST_LOG_BYTES:
        return [], [], [f"{path.name} is larger than {_MOST_LOG_BYTES >> 20} MiB, and was not read"]
    steps, validation, bad = [], [], 0
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if number(entry, "step") is not None and number(entry, "valid_loss") is not None:
            validation.append({"step": entry["step"], "valid_loss": entry["valid_loss"]})
        elif number(entry, "step") is not None and number(entry, "loss") is not None:
            steps.append({name: value for name in entry if (value := number(entry, name)) is not None})
        elif line.strip():
            bad += 1
    return steps, validation, [f"{bad} lines of {path.name} cannot be read"] if bad else []


def _evaluation(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    if not (folder / EVALUATION).exists():
        return None, []
    try:
        document = read_json(folder / EVALUATION)
    except GemletError as error:
        return None, [error.message]
    if document.get("gemlet_evaluation") != 1 or not isinstance(document.get("verdict"), dict):
        return None, [f"{EVALUATION} is of another version, and was left out"]
    return finite(document), []


def _verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    if document["evaluation"] is not None:
        found = document["evaluation"]["verdict"]
        texts = {name: str(found.get(name) or "") for name in ("headline", "advice", "domain", "forgetting")}
        lines = {
            name: [line for line in found.get(name) or [] if isinstance(line, str)]
            for name in ("gained", "lost")
        }
        return texts | lines
    ended = ending(document)
    if ended in (None, "interrupted"):
        headline, advice = "Not finished", "--resume goes on from the last checkpoint"
    elif ended == "nan":
        headline, advice = "The loss became no number", "a lower rate is the usual cure"
    else:
        headline, advice = "Not evaluated", "what it gained and lost was not measured"
    unknown = {"domain": "unknown", "forgetting": "unknown"}
    return {"headline": headline, "advice": advice, **unknown, "gained": [], "lost": []}


def _warnings(document: Mapping[str, Any]) -> list[str]:
    data, evaluation = at(document, "run", "data", "report"), document["evaluation"]
    lines = []
    for key, what in (
        ("duplicates_across", "held-out lines are copies of training lines"),
        ("near_copies_across", "held-out lines differ from training lines in case, space or digits only"),
        ("groups_across", "held-out lines have a group that was trained on"),
    ):
        if count := number(data, key, "count"):
            lines.append(f"{count:.0f} {what}: what was gained looks larger than it is")
    secrets = at(data, "secrets")
    for kind in secrets if isinstance(secrets, Mapping) else ():
        lines.append(f"the data may hold secrets ({kind}), which a model can repeat")
    if number(data, "cut", "count"):
        lines.append(f"{number(data, 'cut', 'count'):.0f} examples were cut at their end")
    validation = document["validation"]
    if validation:
        best = min(validation, key=lambda entry: entry["valid_loss"])
        if best["step"] == 0 and len(validation) > 1:
            lines.append("validation was never better than before training")
        elif validation[-1]["valid_loss"] > _RISE * best["valid_loss"]:
            lines.append(f"validation loss rose after step {best['step']}: fewer epochs would do")
    if at(evaluation, "interrupted") is True:
        lines.append("the evaluation was interrupted: what it had measured is shown")
    if evaluation is not None and evaluation.get("split") == "valid":
        lines.append("measured on the validation split, which also chose the best step: hold out test.jsonl")
    return lines
